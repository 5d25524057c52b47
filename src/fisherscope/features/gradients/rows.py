"""Ops that pick, drop or mix rows of data by indices, masks or weights.

A batch axis that was found in a probe of a few samples is none of the next batch where a row's place depends on values
of other samples, or on how many they are. Whatever may move rows so is noticed here, values that leave torch for Python
included; the model is then served by the loop. Shapes and what the ops are given decide, not who made an index: what a
scripted function returns cannot be told from a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fisherscope.features.gradients.arguments import operands

IsData = Callable[[Tensor], bool]

_PICKED: Final = "_fisherscope_picked"

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
    {"masked_select", "masked_scatter", "take", "put", "embedding", "embedding_bag", "segment_reduce",
     "_pack_padded_sequence"}
)  # fmt: skip
"""Ops that may take a row from anywhere, or put it there."""

_ESCAPES: Final = frozenset({"tolist", "item", "numpy", "__array__", "__int__", "__index__", "__float__"})
"""What makes Python or numpy values of a tensor, whose further ways nobody sees."""

_DECISIONS: Final = frozenset({"__bool__", "is_nonzero", "equal", "allclose", "__contains__"})
"""What Python branches on: of whole batches, samples that are refused as interacting; of some rows, a way to sort."""

_RANKING: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"), ("input", "dim")),
    **dict.fromkeys(("sort", "argsort"), ("input", "dim", "descending", "stable")),
    **dict.fromkeys(("topk", "kthvalue"), ("input", "k", "dim")),
}
"""Ops whose result at one place of an axis depends on the places before or beside it."""

_PIECES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("unbind", "select", "narrow"), 1),
    **dict.fromkeys(("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_split", "unsafe_chunk"), 2),
}
"""Ops that cut an axis to pieces, by the place of that axis among their arguments; the first where it is not given."""

_TOGETHER: Final = frozenset(
    {"cat", "concat", "concatenate", "stack", "vstack", "hstack", "dstack", "row_stack", "column_stack"}
)
"""Ops that put rows together again."""

_PRODUCTS: Final = frozenset(
    {"matmul", "mm", "bmm", "__matmul__", "__rmatmul__", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot",
     "inner", "linear", "tensordot", "multi_dot", "chain_matmul", "einsum"}
)  # fmt: skip
"""Products: with a matrix of noughts and ones they send rows wherever it says."""

_SCALINGS: Final = frozenset({"mul", "multiply", "__mul__", "__rmul__", "where"})
"""Ops by which rows, laid out once more for every sample, may be chosen from."""

_IN_PLACE_TOO: Final = (*_ALONG, *_ANYWHERE, *_RANKING, "index_put")

ROW_MOVERS: Final = frozenset(
    {"__getitem__", "__setitem__", "msort", "unique", "roll", *_ESCAPES, *_DECISIONS, *_PIECES, *_TOGETHER}
    | {*_PRODUCTS, *_SCALINGS, *_IN_PLACE_TOO}
    | {f"{name}_" for name in _IN_PLACE_TOO}
)
"""Names of the ops that a :class:`RowWatch` is to be told of."""


class RowWatch:
    """What becomes of the rows of data in one forward pass.

    Args:
        n: number of samples.
        is_data: whether a tensor depends on the samples.
        compared: whether what every sample gets is compared with the loop afterwards: then what only may be a sample
            is taken for none.

    Attributes:
        picked: whether some rows were taken by themselves; what is computed from those is then to be told to
            :meth:`follow`.
    """

    def __init__(self, n: int, is_data: IsData, *, compared: bool) -> None:
        self.picked = False
        self._n = n
        self._is_data = is_data
        self._compared = compared
        self._token = object()

    def moves(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> bool:
        """Return whether an op may have moved rows of data between samples.

        Args:
            name: of the torch function, one of :data:`ROW_MOVERS`.
            args: its arguments.
            kwargs: its arguments by name.
            result: what it returned.
        """
        name = name if name.startswith("__") else name.removesuffix("_")
        if name in _SCALINGS:
            return self._compared and self._pairs(operands(args, kwargs))  # a matter of shapes, which a probe shows
        if name in _PRODUCTS:
            return self._sends(list(_sums(name, args, kwargs)))
        if name in _PIECES:
            self._note_pieces(name, args, kwargs, result)
            return False
        if name == "__getitem__":
            # of a table of constants every sample takes what it wants
            return self._data(args[0]) and self._picks(args[0], args[1], result)
        if name in ("__setitem__", "index_put"):
            # a constant that is written where the data say so stays in its row
            given = dict(zip(("input", "indices", "values"), args, strict=False)) | dict(kwargs)
            return self._data(given["values"]) and self._places(given["input"], given["indices"])
        if name in _DECISIONS or name in _TOGETHER:
            return self.picked and any(map(self._is_picked, operands(args, kwargs)))
        if name in _ESCAPES:
            return self._data(args[0])
        return self._mixes(name, args, kwargs)

    def follow(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], results: Sequence[Tensor]) -> None:
        """Note that what an op computed from picked rows is of those rows."""
        if any(map(self._is_picked, operands(args, kwargs))):
            for tensor in results:
                setattr(tensor, _PICKED, self._token)

    def _is_picked(self, tensor: Tensor) -> bool:
        return getattr(tensor, _PICKED, None) is self._token

    def _data(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self._is_data(value)

    def _along(self, values: Tensor, axis: int | None) -> bool:
        """Whether samples may lie along an axis, or several fold into it."""
        if axis is None:  # all axes as one
            return True
        axis %= max(1, values.dim())
        # samples may lie on another axis than the first (time first)
        return axis == 0 or (len(values) % self._n != 0 and values.shape[axis] == self._n)

    def _samples(self, values: Tensor, axis: int) -> bool:
        """Whether the samples, one beside the other, may lie along an axis."""
        if not values.dim():
            return False
        axis %= values.dim()
        if values.shape[axis] != self._n or not self._along(values, axis):
            return False
        # three things of three samples each, say queries, keys and values; what a probe takes for moved samples is
        # looped for good
        return not (self._compared and axis == 0 and values.dim() > 1 and values.shape[1] == self._n)

    def _sends(self, sums: Sequence[tuple[Any, int]]) -> bool:
        """Whether a product of operands, each given with an axis that it sums over, adds up samples."""
        for value, axis in sums:
            if self._data(value) and self._samples(value, axis):
                others = [other for other, _ in sums if other is not value]
                if any(self._data(other) or other.shape[-_MATRIX:] == (self._n, self._n) for other in others):
                    return True
        return False

    def _pairs(self, tensors: Sequence[Tensor]) -> bool:
        """Whether all rows, (1, n, ...), are laid beside each sample, (n, n, ...)."""
        data = [t for t in tensors if t.dim() >= _MATRIX and self._is_data(t)]
        rows = [t for t in data if t.shape[:_MATRIX] == (1, self._n)]
        return bool(rows) and any(t.shape[:_MATRIX] == (self._n, self._n) for t in data)

    def _note_pieces(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        if not args or not self._data(args[0]):
            return
        values, place = args[0], _PIECES[name]
        axis = args[place] if len(args) > place else kwargs.get("dim", 0)
        pieces = [result] if isinstance(result, Tensor) else list(result)
        if self._samples(values, axis):
            for piece in pieces:
                if piece.shape != values.shape:
                    self._pick(piece)

    def _pick(self, rows: Any) -> None:
        self.picked = True
        setattr(rows, _PICKED, self._token)

    def _picks(self, values: Tensor, index: Any, result: Tensor) -> bool:
        for axis, item in _items(values, index):
            if isinstance(item, (int, slice)) and not isinstance(item, bool):
                if self._samples(values, axis) and not _whole(item, self._n):
                    self._pick(result)
            elif self._moved_by(values, axis, item):
                return True
        return False

    def _places(self, target: Tensor, index: Any) -> bool:
        for axis, item in _items(target, index):
            if isinstance(item, (int, slice)) and not isinstance(item, bool):
                if self._samples(target, axis) and not _whole(item, self._n):
                    return True
            elif self._moved_by(target, axis, item):
                return True
        return False

    def _moved_by(self, values: Tensor, axis: int, item: Any) -> bool:
        """Whether an index or mask along an axis takes samples to another place than their own."""
        if self._data(item):
            return self._along(values, axis)
        return self._samples(values, axis) and not _in_order(item, self._n)

    def _mixes(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        if name in ("msort", "unique") or name in _RANKING:
            given = dict(zip(_RANKING.get(name, ("input",)), args, strict=False)) | dict(kwargs)
            axis = given.get("dim", -1) if name in _RANKING else given.get("dim", 0)
            return self._data(given["input"]) and self._along(given["input"], axis)
        if name == "roll":
            given = dict(zip(("input", "shifts", "dims"), args, strict=False)) | dict(kwargs)
            axes, values = given.get("dims"), given["input"]
            axes = range(values.dim()) if axes in (None, (), []) else (axes,) if isinstance(axes, int) else axes
            return self._data(values) and any(self._samples(values, axis) for axis in axes)
        if name in _ANYWHERE:
            return sum(map(self._data, operands(args, kwargs))) > 1
        bound = dict(zip(_ALONG[name], args, strict=False)) | dict(kwargs)
        index = next((bound[key] for key in ("index", "indices", "repeats") if key in bound), None)
        values, axis = bound["input"], bound.get("dim")
        if not isinstance(index, Tensor) or not any(self._data(bound.get(key)) for key in ("input", "src", "source")):
            return False
        if self._data(index):
            return self._along(values, axis)
        if name == "repeat_interleave" or axis is None:
            return False
        return self._samples(values, axis) and not _in_order(index, self._n)


def _whole(item: int | slice, n: int) -> bool:
    """Whether an index takes all of n rows in their order."""
    return isinstance(item, slice) and item.indices(n) == (0, n, 1)


def _in_order(item: Any, n: int) -> bool:
    """Whether an index that is no data takes n rows in their order, as ``torch.arange(n)`` does."""
    plain = item.detach().cpu() if isinstance(item, Tensor) else torch.as_tensor(np.asarray(item))
    if plain.dtype in (torch.bool, torch.uint8):
        return bool(plain.all())
    if plain.dim() == 0 or len(plain) != n:
        return False
    rows = torch.arange(n).reshape(n, *(1,) * (plain.dim() - 1))
    return bool((plain == rows).all())


def _items(values: Tensor, index: Any) -> Iterator[tuple[int, Any]]:
    """Yield the axes that an index speaks of, each with what it says of it."""
    items = index if isinstance(index, tuple) else tuple(index) if _is_index_list(index) else (index,)
    used, axis = sum(_axes(item) for item in items), 0
    for item in items:
        if item is Ellipsis:
            axis += values.dim() - used
        elif item is not None:
            yield axis, item
            axis += _axes(item)


def _is_index_list(index: Any) -> bool:
    """Whether a list is what ``index_put`` takes, an index for each axis."""
    return isinstance(index, list) and any(isinstance(item, Tensor) and item.dim() for item in index)


def _axes(item: Any) -> int:
    """Return how many axes an item of an index takes; a mask takes as many as it has."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) else 1


def _sums(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[Any, int]]:
    """Yield the operands of a product, each with an axis that it sums over."""
    if name == "einsum":
        yield from _einsum_sums(args)
        return
    given = [*args, *kwargs.values()]
    if name in ("multi_dot", "chain_matmul"):
        matrices = given[0] if isinstance(given[0], (list, tuple)) else given
        for first, second in pairwise(matrices):
            yield first, -1
            yield second, 0
        return
    if name in ("addmm", "baddbmm", "addbmm", "addmv"):
        given = given[1:]
    first, second = given[:2][::-1] if name == "__rmatmul__" else given[:2]
    if name == "tensordot":
        dims = kwargs.get("dims", args[2] if len(args) > _MATRIX else 2)
        lists = dims if isinstance(dims, (list, tuple)) else (range(-dims, 0), range(dims))
        for value, axes in zip((first, second), lists, strict=True):
            yield from ((value, axis) for axis in axes)
        return
    yield first, -1
    if name in ("linear", "inner"):
        yield second, -1
    elif isinstance(second, Tensor):
        yield second, max(0, second.dim() - 2)
    if name == "addbmm":  # adds up the products
        yield first, 0
        yield second, 0


def _einsum_sums(args: tuple[Any, ...]) -> Iterator[tuple[Any, int]]:
    equation, values = args[0], args[1:]
    if not isinstance(equation, str) or "->" not in equation:
        return
    inputs, output = equation.replace(" ", "").split("->")
    parts = inputs.split(",")
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        values = tuple(values[0])
    for part, value in zip(parts, values, strict=False):
        if "." not in part:
            yield from ((value, axis) for axis, letter in enumerate(part) if letter not in output)
