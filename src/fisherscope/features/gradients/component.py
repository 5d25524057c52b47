"""Parameters joined by ops on parameters alone, and how the tensors computed from them came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from fisherscope.features.gradients.entrywise import Origin, Relation
from fisherscope.features.gradients.forms import GradientForm


class UnsupportedError(Exception):
    """The batched pass cannot serve this model; the reference loop can. Never leaves the package."""


@dataclass(frozen=True)
class Scaling:
    """How a tensor was made of one parameter: multiplied by a constant of as many axes.

    Attributes:
        product: the tensor.
        constant: broadcasts to the parameter's shape.
        versions: of both, when they were multiplied; another version means that somebody wrote into one.
    """

    product: Tensor
    constant: Tensor
    versions: tuple[int, int]

    def check(self) -> None:
        """Raise :class:`UnsupportedError` if either tensor was changed in place since."""
        if (self.product._version, self.constant._version) != self.versions:
            raise UnsupportedError("a masked or scaled parameter is changed in place after it met data")


def scaling_of(name: str, args: Sequence[Any], result: Any) -> Scaling | None:
    """Return the scaling that the torch function of this name computed, or None if it is no such."""
    if name not in ("mul", "multiply", "__mul__", "__rmul__") or len(args) != 2 or not isinstance(result, Tensor):
        return None
    weight, constant = args if isinstance(args[0], Parameter) else reversed(args)
    if not isinstance(weight, Parameter) or not isinstance(constant, Tensor) or constant.requires_grad:
        return None
    if result.shape != weight.shape or constant.dim() != weight.dim() or not weight.dim() or result.is_complex():
        return None
    return Scaling(result, constant, (result._version, constant._version))


class Component:
    """Parameters joined by parameter-only ops, and what their uses have yielded so far.

    Attributes:
        parameters: by name.
        derived: tensors computed from them.
        origins: by id, the tensors that depend entry by entry on one of the parameters, these included.
        frontier: by parameter id, those of its entrywise tensors from which other tensors were computed.
        used: ids of the tensors that met data.
        uses, done: number of uses noted, and of those whose gradient has arrived.
        cotangents: by id, tensors that met data, their versions then, and their per-group gradients.
    """

    def __init__(self, tensor: Tensor, name: str) -> None:
        self.parameters: dict[str, Tensor] = {name: tensor}
        self.derived: list[Tensor] = []
        self.scaling: Scaling | None = None
        self.origins: dict[int, Origin] = {id(tensor): Origin(tensor, Relation.SAME)}
        self.frontier: dict[int, dict[int, Tensor]] = {id(tensor): {}}
        self.used: set[int] = set()
        self.uses = 0
        self.done = 0
        self.form: GradientForm | None = None
        self.cotangents: dict[int, tuple[Tensor, int, Tensor]] = {}
        self.finished = False

    def absorb(self, other: Component) -> None:
        self.parameters |= other.parameters
        self.derived += other.derived
        self.scaling = None
        self.origins |= other.origins
        self.frontier |= other.frontier
        self.used |= other.used
        self.uses += other.uses

    def relate(self, sources: Sequence[Tensor], result: Tensor, relation: Relation | None) -> None:
        """Note whether ``result`` depends entry by entry on one parameter, or else what it was made of."""
        first = self.origins.get(id(sources[0]))
        if relation is not None and first is not None:
            same = first.relation is relation is Relation.SAME
            self.origins[id(result)] = Origin(first.parameter, Relation.SAME if same else Relation.ENTRYWISE)
            return
        for source in sources:
            origin = self.origins.get(id(source))
            if origin is not None:
                self.frontier[id(origin.parameter)][id(source)] = source

    def forget_origins(self) -> None:
        """Something was written in place: believe autograd alone from now on."""
        self.origins = {id(p): Origin(p, Relation.SAME) for p in self.parameters.values()}
        self.frontier = {id(p): {id(p): p} for p in self.parameters.values()}

    def sources(self) -> list[tuple[Tensor, Origin]]:
        """Return, for each parameter, the tensor at which a backward pass may end, with its origin.

        The one entrywise tensor through which alone it enters other tensors, or the parameter itself.
        """
        found = []
        for key, tensors in self.frontier.items():
            if tensors:
                last = next(iter(tensors.values())) if len(tensors) == 1 else self.origins[key].parameter
                found.append((last, self.origins[id(last)]))
        return found

    @property
    def lone(self) -> bool:
        return not self.derived and len(self.parameters) == 1

    @property
    def scaled(self) -> Scaling | None:
        """The one product by a constant through which alone the one parameter meets data, if so."""
        if self.scaling is None or len(self.derived) != 1 or self.used != {id(self.scaling.product)}:
            return None
        return self.scaling
