"""Tensors that depend on one parameter entry by entry: their Jacobian is one vector, found by one ordinary vjp.

``exp(log_scale)``, ``tril(w)``, ``w[:, :, None, None]``: a per-group gradient arrives at the parameter by one product,
where a batched backward pass would run every op of the way for all groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from torch import Tensor

_OPERATIONS = ("add", "sub", "mul", "div", "pow", "floor_divide", "remainder", "fmod")
_OTHER = (
    "subtract", "multiply", "divide", "true_divide", "rsub", "maximum", "minimum", "fmax", "fmin", "where", "lerp",
    "addcmul", "addcdiv", "clamp", "clip", "clamp_min", "clamp_max", "atan2", "arctan2", "hypot", "logaddexp",
    "logaddexp2", "xlogy", "copysign", "masked_fill",
)  # fmt: skip
_OPERATORS = ("add", "sub", "mul", "truediv", "pow", "div", "mod", "floordiv")

ARITHMETIC: Final = frozenset(
    [f"{name}{end}" for name in (*_OPERATIONS, *_OTHER) for end in ("", "_")]
    + [f"__{start}{name}__" for name in _OPERATORS for start in ("", "r", "i")]
)
"""Names of the ops that act entry by entry with broadcasting, in place or not."""

_FUNCTIONS: Final = ARITHMETIC | {
    "exp", "exp2", "expm1", "log", "log1p", "log2", "sigmoid", "logsigmoid", "tanh", "softplus", "relu", "silu", "elu",
    "sin", "cos", "neg", "__neg__", "negative", "abs", "absolute", "__abs__", "square", "sqrt", "rsqrt", "reciprocal",
    "erf", "tril", "triu",
}  # fmt: skip
_RESHAPES: Final = frozenset({"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone"})


class Relation(Enum):
    """How the entries of a tensor follow from those of another, both in row-major order."""

    SAME = auto()
    ENTRYWISE = auto()


class Origin(NamedTuple):
    """A tensor's one parameter, and how its entries follow from the parameter's."""

    parameter: Tensor
    relation: Relation


def relation_of(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], source: Tensor, result: Tensor
) -> Relation | None:
    """Return how ``result`` = name(...) follows from ``source``, its one operand that is not constant, or None."""
    if result.numel() != source.numel() or result.dtype != source.dtype or kwargs.get("out") is not None:
        return None
    if name in _RESHAPES or (name == "__getitem__" and _keeps_order(args[1])):
        return Relation.SAME
    return Relation.ENTRYWISE if name in _FUNCTIONS and result.shape == source.shape else None


def _keeps_order(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts)
