"""Ops that pick, drop or mix rows of data by indices, masks or weights that are data themselves.

Where a row lies then depends on the values of other samples, and a batch axis that was found in a probe of a few
samples is none of the next batch. Whatever may do that is noticed here, values that leave torch for Python included;
the model is then served by the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

IsData = Callable[[Tensor], bool]

_MATRIX: Final = 2

_ALONG: Final[Mapping[str, tuple[str, ...]]] = {
    "index_select": ("input", "dim", "index"),
    "gather": ("input", "dim", "index"),
    "take_along_dim": ("input", "indices", "dim"),
    "scatter": ("input", "dim", "index", "src"),
    "scatter_add": ("input", "dim", "index", "src"),
    "scatter_reduce": ("input", "dim", "index", "src"),
    "index_add": ("input", "dim", "index", "source"),
    "index_copy": ("input", "dim", "index", "source"),
    "index_reduce": ("input", "dim", "index", "source"),
    "repeat_interleave": ("input", "repeats", "dim"),
}
"""Ops with an index along one axis, by the names of their arguments."""

_ANYWHERE: Final = frozenset(
    {"masked_select", "masked_scatter", "take", "put", "index_put", "embedding", "embedding_bag", "segment_reduce",
     "_pack_padded_sequence"}
)  # fmt: skip
"""Ops that may take a row from anywhere, or put it there."""

_ESCAPES: Final = frozenset({"tolist", "item", "numpy", "__array__", "__int__", "__index__", "__float__"})
"""What makes Python or numpy values of a tensor, whose further ways nobody sees."""

_RANKING: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"), ("input", "dim")),
    **dict.fromkeys(("sort", "argsort"), ("input", "dim", "descending", "stable")),
    **dict.fromkeys(("topk", "kthvalue"), ("input", "k", "dim")),
}
"""Ops whose result at one place of an axis depends on the places before or beside it."""

_PRODUCTS: Final = frozenset({"matmul", "mm", "__matmul__", "__rmatmul__", "einsum"})
"""Products of data with data: with a matrix of noughts and ones they send rows wherever it says."""

_IN_PLACE_TOO: Final = (*_ALONG, *_ANYWHERE, *_RANKING)

ROW_MOVERS: Final = frozenset(
    {"__getitem__", "__setitem__", "msort", "unique", *_ESCAPES, *_PRODUCTS, *_IN_PLACE_TOO}
    | {f"{name}_" for name in _IN_PLACE_TOO}
)
"""Names of the ops that :func:`moves_rows` is to be asked about."""


def moves_rows(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], is_data: IsData, n: int) -> bool:
    """Return whether an op may move rows of data between samples by values of the data.

    Args:
        name: of the torch function, one of :data:`ROW_MOVERS`.
        args: its arguments.
        kwargs: its arguments by name.
        is_data: whether a tensor depends on the samples.
        n: number of samples.
    """

    def data(value: Any) -> bool:
        return isinstance(value, Tensor) and is_data(value)

    if name == "__getitem__":
        # of a table of constants every sample takes what it wants
        return data(args[0]) and _picks_rows(args[0], args[1], is_data)
    if name == "__setitem__":
        # a constant that is written where the data say so stays in its row
        return data(args[2]) and _picks_rows(args[0], args[1], is_data)
    if name in _ESCAPES:
        return data(args[0])
    if name in _PRODUCTS:
        return _contracts_rows(name, args, kwargs, data, n)
    name = name.removesuffix("_")
    if name in ("msort", "unique") or name in _RANKING:
        given = dict(zip(_RANKING.get(name, ("input",)), args, strict=False)) | dict(kwargs)
        axis = given.get("dim", -1) if name in _RANKING else given.get("dim", 0)
        return data(given["input"]) and _along_rows(given["input"], axis, n)
    if name in _ANYWHERE:
        return sum(map(data, (*args, *kwargs.values()))) > 1
    bound = dict(zip(_ALONG[name], args, strict=False)) | dict(kwargs)
    index = next((bound[key] for key in ("index", "indices", "repeats") if key in bound), None)
    values = [bound.get(key) for key in ("input", "src", "source")]
    return data(index) and any(map(data, values)) and _along_rows(bound["input"], bound.get("dim"), n)


def _contracts_rows(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], data: Callable[[Any], bool], n: int
) -> bool:
    """Return whether a product of data with data adds up over the samples."""
    if name != "einsum":
        first, second = (*args, *kwargs.values())[:2]
        if name == "__rmatmul__":
            first, second = second, first
        return data(first) and data(second) and second.dim() <= _MATRIX and len(second) == n
    equation, operands = args[0], args[1:]
    if not isinstance(equation, str) or "->" not in equation:
        return False
    inputs, output = equation.replace(" ", "").split("->")
    parts = inputs.split(",")
    values = operands[0] if len(operands) == 1 and len(parts) > 1 else operands
    mine = [(part, value) for part, value in zip(parts, values, strict=False) if data(value)]
    for part, value in mine:
        letter = part[:1]
        if letter.isalpha() and len(value) == n and letter not in output and sum(letter in p for p, _ in mine) > 1:
            return True
    return False


def _along_rows(values: Tensor, dim: int | None, n: int) -> bool:
    if dim is None:  # all axes as one
        return True
    axis = dim % max(1, values.dim())
    # samples may lie on another axis than the first (time first)
    return axis == 0 or (len(values) % n != 0 and values.shape[axis] == n)


def _picks_rows(values: Tensor, index: Any, is_data: IsData) -> bool:
    """Return whether what the first axis is indexed with is data."""
    items = index if isinstance(index, tuple) else (index,)
    used = sum(_axes(item) for item in items)
    for item in items:
        if item is Ellipsis and values.dim() > used:
            return False  # it covers the first axis
        if item is not None and item is not Ellipsis:
            return isinstance(item, Tensor) and is_data(item)
    return False


def _axes(item: Any) -> int:
    """Return how many axes an item of an index takes; a mask takes as many as it has."""
    if item is None or item is Ellipsis:
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) else 1
