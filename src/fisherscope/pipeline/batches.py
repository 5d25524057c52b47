"""What Python code may pass as data, as one thing: arrays with names and keys, in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from fisherscope.core.errors import DataError
from fisherscope.core.keys import KeyArray, fingerprint_keys, sample_keys
from fisherscope.data import Samples, load_samples, require_shape
from fisherscope.evaluation import Split, join_equal, split_in_dist
from fisherscope.evaluation.bootstrap import Clusters
from fisherscope.models.base import GenerativeModel
from fisherscope.pipeline.target import Target


@dataclass(frozen=True)
class Batches:
    """Samples of any structure.

    Attributes:
        x: pytree of arrays, shape (n, ...) each.
        ids: n names.
        keys: n keys, uint64.
        name: what the user called them.
        clusters: name of the cluster (a video track) each sample belongs to, or None where they are independent.
        columns: names of the columns of a table, or None where they are not known.
    """

    x: Any
    ids: tuple[str, ...]
    keys: KeyArray
    name: str
    clusters: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the samples in their order."""
        return fingerprint_keys(self.keys)

    @property
    def form(self) -> dict[str, str]:
        """Kind and shape of one sample's arrays by their place in the pytree: ``{"": "floating of shape (5,)"}``."""
        leaves, _ = pytree.tree_flatten_with_path(self.x)
        return {pytree.keystr(place): f"{_kind(leaf.dtype)} of shape {leaf.shape[1:]}" for place, leaf in leaves}

    def require_form(self, expected: Mapping[str, str] | None, whose: str) -> None:
        """Raise :class:`DataError` where the samples are not of a form (:attr:`form`), unless that is None."""
        if expected is not None:
            require_form(self.form, expected, self.name, whose)

    def require_columns(self, expected: tuple[str, ...] | None, whose: str) -> None:
        """Raise :class:`DataError` where the names of the columns are known here and there and are not the same.

        Args:
            expected: names in their order, or None where they are not known.
            whose: what the message calls those.
        """
        if self.columns is not None and expected is not None and self.columns != expected:
            raise DataError(
                f"{self.name} has the columns {', '.join(self.columns)}, {whose} {', '.join(expected)}; give the same "
                "columns in that order"
            )

    @cached_property
    def joined_clusters(self) -> Clusters | None:
        """A label for each sample, by which equal samples are in one cluster too; None where all are independent."""
        return join_equal(self.clusters, self.keys)

    def split(self, group_size: int, seed: int) -> Split:
        """Return the parts of :func:`split_in_dist`; clusters, and samples that are equal, stay in one."""
        return split_in_dist(len(self), group_size, seed, clusters=self.joined_clusters)

    def whole_groups(self, group_size: int) -> Batches:
        """Return the samples that fill groups."""
        stop = len(self) // group_size * group_size
        return self if stop == len(self) else self.select(range(stop))

    def group_ids(self, group_size: int) -> tuple[tuple[str, ...], ...]:
        """Return the names of the samples of each group, of which the samples fill whole ones."""
        return tuple(self.ids[i : i + group_size] for i in range(0, len(self), group_size))

    def left_out(self, group_size: int) -> tuple[str, ...]:
        """Return the names of the samples that fill no last group."""
        return self.ids[len(self) // group_size * group_size :]

    def evenly(self, count: int) -> Batches:
        """Return at most so many samples, evenly spaced: the first ones may all be of one kind."""
        count = min(len(self), count)
        return self.select(np.linspace(0, len(self), count, endpoint=False).astype(np.intp))

    def select(self, rows: Sequence[int] | NDArray[np.intp]) -> Batches:
        """Return some samples, in the order given."""
        index = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            x=pytree.tree_map(lambda leaf: leaf[index], self.x),
            ids=tuple(self.ids[i] for i in index),
            keys=self.keys[index],
            clusters=None if self.clusters is None else tuple(self.clusters[i] for i in index),
        )


def require_form(given: Mapping[str, str], expected: Mapping[str, str], name: str, whose: str) -> None:
    """Raise :class:`DataError` where samples are of another form than others.

    Args:
        given: form of the samples, see :attr:`Batches.form`.
        expected: form of the others.
        name: what the message calls the samples.
        whose: who holds others, with a verb: "the guard was fitted on".
    """
    if given != expected:
        mine, theirs = (", ".join(f"{k} {v}".strip() for k, v in form.items()) for form in (given, expected))
        raise DataError(
            f"{name}: samples are {mine}, {whose} samples that are {theirs}; convert them, and give the batch first "
            "(a single sample as x[None])"
        )


def _kind(dtype: np.dtype[Any]) -> str:
    """Return what a model is handed: 8-bit values come as floats, other integers and booleans as they are."""
    if dtype == np.uint8:
        return "8-bit"
    return {"f": "floating", "b": "boolean"}.get(dtype.kind, "integer")


def as_batches(data: Any, target: Target | None = None) -> Batches:
    """Return the batches for data, checked against what the model expects.

    Args:
        data: samples, the name or path of a set, an array, a tensor, or a pytree of tensors with the batch first.
        target: the model, where there is one; its shape and value range are checked.

    Raises:
        DataError: empty, ragged, NaN or inf, or not what the model expects.
    """
    if isinstance(data, Batches):
        return data
    if isinstance(data, (str, Path)):
        data = load_samples(data, default_window=None if target is None else target.window)
    if not isinstance(data, Samples):
        data = _from_tree(data)
        if isinstance(data, Batches):
            return data
    if target is not None and target.data_shape is not None:
        require_shape(data, target.data_shape, target.value_range)
    found = Batches(data.x, data.ids, data.keys, data.name, data.clusters, data.columns)
    if target is not None and isinstance(target.module, GenerativeModel) and (known := target.module.card.columns):
        found.require_columns(tuple(known), "the model was trained on")
    return found


def require_resolved(x: Any, name: str, columns: tuple[str, ...] | None, dtype: torch.dtype) -> None:
    """Raise :class:`DataError` for rows with a column of which a model's dtype would keep next to nothing.

    Args:
        x: samples, or a pytree of arrays; columns are those of floating rows (n, D).
        name: of the samples.
        columns: their names, where they have some.
        dtype: of the model.
    """
    if not (isinstance(x, np.ndarray) and x.ndim == 2 and x.dtype == np.float64 and dtype.is_floating_point):
        return
    spread, largest = x.std(0), np.abs(x).max(0)
    lost = np.flatnonzero((np.ptp(x, axis=0) > 0) & (torch.finfo(dtype).eps * largest > spread / 10))
    if len(lost):
        place = int(lost[0])
        column = columns[place] if columns else place + 1
        raise DataError(
            f"{name}: the column {column} holds numbers up to {largest[place]:.6g} that vary by {spread[place]:.3g}, "
            f"which {dtype} does not tell apart; subtract an offset, or use a model in float64 (--dtype float64)"
        )


def _from_tree(data: Any) -> Batches | Samples:
    tree = pytree.tree_map(_to_array, data)
    leaves = pytree.tree_leaves(tree)
    lengths = {len(leaf) for leaf in leaves}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(f"data has first axes of {sorted(lengths)} samples, expected one number above 0")
    n = lengths.pop()
    ids = tuple(f"[{i}]" for i in range(n))
    if isinstance(tree, np.ndarray):
        return Samples.from_array(tree, ids, "array")
    for leaf in leaves:
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise DataError("data holds NaN or inf; remove those samples")
    # by name: the same samples have the same keys in whatever order a dict holds them
    named = sorted(pytree.tree_flatten_with_path(tree)[0], key=lambda leaf: pytree.keystr(leaf[0]))
    return Batches(tree, ids, sample_keys([leaf for _, leaf in named]), "arrays")


def _to_array(leaf: Any) -> NDArray[Any]:
    if isinstance(leaf, torch.Tensor):
        leaf = _tensor_to_array(leaf)
    if not isinstance(leaf, np.ndarray) or leaf.ndim == 0 or leaf.dtype.kind not in "biuf":
        raise DataError(f"data holds {type(leaf).__name__}, expected numeric arrays or tensors with the batch first")
    if isinstance(leaf, np.ma.MaskedArray):
        if missing := int(np.sum(leaf.mask)):
            raise DataError(
                f"data holds a masked array, {missing} of {leaf.size} values masked; remove the samples with missing "
                "values, or fill these in with x.filled(...)"
            )
        leaf = leaf.data
    # torch knows the machine's byte order alone, and no float of more than 64 bits.
    long = leaf.dtype.kind == "f" and leaf.dtype.itemsize > 8
    array: NDArray[Any] = leaf.astype(np.float64 if long else leaf.dtype.newbyteorder("="), copy=False)
    return array


def _tensor_to_array(tensor: torch.Tensor) -> NDArray[Any]:
    if tensor.layout != torch.strided:
        raise DataError(f"data holds a tensor of layout {tensor.layout}, expected a dense one; give x.to_dense()")
    if tensor.is_quantized or tensor.is_complex():
        raise DataError(f"data holds a tensor of {tensor.dtype}, expected real numbers or integers; convert it")
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16 and no float of 8 bits; float32 holds all their values.
    exact = not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.float32, torch.float64)
    array: NDArray[Any] = (tensor if exact else tensor.float()).numpy()
    return array
