"""How the output of each op changes when the parameters that it reads move, and nothing else does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fisherscope.features.gradients.arguments import operands
from fisherscope.features.gradients.call import is_in_place


@contextmanager
def tangents() -> Iterator[None]:
    """Open a level of forward-mode differentiation; tensors lose their derivatives at its end."""
    with warnings.catch_warnings():
        # torch itself, when its forward mode is first used
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        with forward_ad.dual_level():
            yield


class Meeting(NamedTuple):
    """An op in which parameters met data.

    Attributes:
        name: of the torch function.
        parameters: shapes of the operands that carry parameters, by their place among the op's tensors.
    """

    name: str
    parameters: Mapping[int, tuple[int, ...]]


class LocalTangent(TorchFunctionMode):
    """Move parameters along a direction inside each op where they meet data, and there alone.

    To be used within :func:`tangents`. An op on parameters and constants passes the derivative on (a mask,
    an exponential, a log-determinant); the result of an op on data, which is what requires a gradient, loses it, so
    that what follows sees the data unmoved.

    An op that writes parameters into data in place is a :class:`NotImplementedError`, as one without a forward
    derivative is.

    Args:
        moved: parameters, each with its direction.
        sink: receives in the backward pass, for each op's output, the op and the output's gradient times its
            derivative, entry by entry.
    """

    def __init__(self, moved: Sequence[tuple[Parameter, Tensor]], sink: Callable[[Meeting, Tensor], None]) -> None:
        super().__init__()
        self._duals: dict[int, Tensor] = {
            id(p): forward_ad.make_dual(p.detach(), v.to(p))  # type: ignore[no-untyped-call]
            for p, v in moved
        }
        self._sink = sink

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch function."""
        seen = self._dual if torch.is_grad_enabled() else _still
        args, kwargs = pytree.tree_map_only(Tensor, seen, (args, kwargs or {}))
        given = operands(args, kwargs)
        result = func(*args, **kwargs)
        carrying = {i: tuple(t.shape) for i, t in enumerate(given) if unpacked(t)[1] is not None}
        if not carrying or not any(t.requires_grad for t in given):
            return result
        name = getattr(func, "__name__", "")
        if is_in_place(name):
            raise NotImplementedError(f"{name} writes parameters into data")
        op = Meeting(name, carrying)
        return pytree.tree_map_only(Tensor, lambda output: self._settled(output, op), result)

    def _dual(self, tensor: Tensor) -> Tensor:
        return self._duals.get(id(tensor), tensor)

    def _settled(self, output: Tensor, op: Meeting) -> Tensor:
        """Return an output without its derivative, which is kept for when the output's gradient is known."""
        primal, tangent = unpacked(output)
        if tangent is None or not primal.requires_grad:
            return primal
        slope = tangent.detach()
        # a model may overwrite the output in place: a hook set before still sees the gradient of what it was
        plain = primal.clone()
        plain.register_hook(lambda gradient: self._sink(op, gradient * slope))  # type: ignore[no-untyped-call]
        return plain


def _still(tensor: Tensor) -> Tensor:
    return unpacked(tensor)[0]


def unpacked(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a tensor without its derivative, and the derivative, or None if it has none."""
    if not tensor.is_floating_point():
        return tensor, None
    primal, tangent = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return primal, tangent
