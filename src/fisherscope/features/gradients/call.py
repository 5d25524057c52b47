"""One op that mixes data with weight-like tensors, and what its rule needs of it between forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from torch import Tensor

from fisherscope.features.gradients import hooks
from fisherscope.features.gradients.component import UnsupportedError
from fisherscope.features.gradients.forms import GradientForm
from fisherscope.features.gradients.layout import Fold

IN_PLACE_DUNDERS: Final = frozenset(
    {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__ipow__", "__imod__", "__iand__",
     "__ior__", "__ixor__", "__ilshift__", "__irshift__", "__setitem__"}
)  # fmt: skip

Gradients = Iterable[tuple[Tensor, GradientForm]]
Backward = Callable[[list[Tensor | None]], Gradients]


@cache
def is_in_place(name: str) -> bool:
    """Whether the torch function of this name writes to its first argument."""
    return (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE_DUNDERS


class Operands(NamedTuple):
    """A torch function and what it was called with.

    Attributes:
        name: of the function.
        func: the function.
        args, kwargs: its arguments, weight-like tensors included.
        weights: the weight-like ones, each once.
    """

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: list[Tensor]


class Call:
    """A torch function with its operands, and what serves it.

    Args:
        operands: the function and its arguments.
        known: the weight-like tensors of the pass by id.
        fold: where the samples lie in the output, and how they are grouped.
        sliceable: whether every data operand is (n, ...), so that samples can be cut out of all of them.
        certain: whether that layout of the output was seen, not assumed.

    Attributes:
        weights: the weight-like operands, each once.
        run: what to run: the function itself, or one equal to it that also keeps what the rule needs.
        stand_ins: leaves that ``run`` put in the place of weights; the rule receives their gradients, not the output's.
        nbytes: kept for the rule.
    """

    __slots__ = (
        "_backward", "_certain", "_known", "_watched", "args", "fold", "func", "kwargs", "name", "nbytes", "run",
        "sliceable", "stand_ins", "weights",
    )  # fmt: skip

    def __init__(
        self, operands: Operands, known: Mapping[int, Tensor], fold: Fold, sliceable: bool, certain: bool
    ) -> None:
        self.name, self.func, self.args, self.kwargs, self.weights = operands
        self.fold = fold
        self.sliceable = sliceable
        self.run = self.func
        self.stand_ins: list[Tensor] = []
        self.nbytes = 0
        self._known = known
        self._certain = certain
        self._watched: list[tuple[Tensor, int]] = []
        self._backward: Backward | None = None

    @property
    def in_place(self) -> bool:
        """Whether the function writes to its first argument."""
        return is_in_place(self.name)

    @property
    def replaceable(self) -> bool:
        """Whether an equal op may run in the place of this one, with other tensors in the graph."""
        # a checkpoint runs the user's op again and must meet the same tensors; an assumed layout is confirmed by the
        # gradient of the user's own output
        return self._certain and self.fold.layout.axis == 0 and not hooks.tensors_are_packed()

    def is_weight(self, value: object) -> bool:
        """Whether a value is a weight-like tensor."""
        return id(value) in self._known  # they live as long as the pass: no other object has their id

    def bind(self, *names: str) -> dict[str, Any]:
        """Return the arguments by name, given the names in their order; missing ones are None."""
        bound: dict[str, Any] = dict(zip_longest(names, self.args))
        bound.update(self.kwargs)
        return bound

    def saved(self, value: Any) -> Any:
        """Return a data operand to be read in the backward pass, and watch that nobody overwrites it until then."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.saved(item) for item in value)
        if not isinstance(value, Tensor) or self.is_weight(value):
            return value
        kept = value.detach()
        if self.args and value is self.args[0] and self.in_place:
            kept = kept.clone()
        self._watched.append((kept, kept._version))
        self.nbytes += kept.numel() * kept.element_size()
        return kept

    def stand_in(self, copies: Tensor) -> Tensor:
        """Return copies of a detached weight, one a sample, as a leaf whose gradient autograd itself computes."""
        leaf = copies.requires_grad_()
        self.stand_ins.append(leaf)
        return leaf

    def take_stand_ins(self) -> list[Tensor]:
        """Return the stand-ins and let go of them, as their hooks will hold on to this call."""
        taken, self.stand_ins = self.stand_ins, []
        return taken

    def serve(self, backward: Backward) -> None:
        """Set what turns the output gradients into forms, and let go of the operands."""
        self._backward = backward
        self.args, self.kwargs = (), {}

    def gradients(self, output_gradients: list[Tensor | None]) -> Gradients:
        """Return (weight-like operand, form) pairs."""
        for kept, version in self._watched:
            if kept._version != version:
                raise UnsupportedError(f"an input of {self.name} is overwritten in place after its use")
        if self._backward is None:
            raise AssertionError(f"no rule was prepared for {self.name}")
        return self._backward(output_gradients)
