"""Factored random sketches: a few hundred numbers that stand for the whole gradient of a sample.

For a weight with matrix view G = sum_t g_t a_t^T the sketch takes R_g G R_a^T = sum_t (R_g g_t)(R_a a_t)^T, which needs
no weight gradient, and folds its q x p entries into K buckets with random signs (CountSketch); layers add up. With
random R's the inner product of two sketches is an unbiased estimate of the inner product of the gradients. For
a rank-one gradient the squared norm has relative variance (1 + 2/q)(1 + 2/p) - 1, plus about 2/K for the buckets.
CountSketch: Charikar, Chen, Farach-Colton 2002.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fisherscope.core.errors import SettingError
from fisherscope.features.gradients.forms import GradientForm, matrix_view
from fisherscope.features.gradients.reductions import Reduction

RAW_ENTRIES: Final = 1024
"""Parameters of at most this many entries, and vectors, go into the buckets unprojected."""

EXACT_AXES: Final = 2
"""Parameters of at most so many axes give :class:`SketchedNorms` their exact norm, which costs them little."""

WAITING_ENTRIES: Final = 1 << 20
"""Projected entries that wait to be folded into the buckets together: many small folds cost more than one."""


@dataclass(frozen=True)
class Projection:
    """The two sides of a factored projection of one parameter, matrix view (R, C).

    Attributes:
        left: (q, R); (R,), the diagonal of a diagonal matrix; or None for the identity.
        right: (p, C), or None for the identity.
    """

    left: Tensor | None
    right: Tensor | None

    def size(self, shape: Sequence[int]) -> int:
        """Return q * p for a parameter of this shape.

        Raises:
            SettingError: a side does not fit.
        """
        sides = []
        for side, matrix, length in zip(("left", "right"), (self.left, self.right), matrix_view(shape), strict=True):
            diagonal = matrix is not None and side == "left" and matrix.dim() == 1
            if matrix is not None and ((matrix.dim() != 2 and not diagonal) or matrix.shape[-1] != length):
                raise SettingError(
                    f"the {side} projection is {tuple(matrix.shape)}; expected (any, {length}) for a parameter of "
                    f"shape {tuple(shape)}"
                )
            sides.append(length if matrix is None or diagonal else len(matrix))
        return sides[0] * sides[1]


def projection_ranks(size: int) -> tuple[int, int]:
    """Return (q, p) for a sketch of this size: (8, 16) for 512, growing with its square root."""
    q = 2 ** max(1, round(math.log2(math.sqrt(size / 8))))
    return q, 2 * q


def random_projection(name: str, shape: Sequence[int], size: int = 512, seed: int = 0) -> Projection:
    """Return the random projection of a parameter, float64 on the CPU: the same in every process.

    Entries are normal with variance 1/q (1/p), so that squared norms are unbiased. Vectors and small tensors are
    not projected.
    """
    rows, columns = matrix_view(shape)
    q, p = projection_ranks(size)
    if len(shape) < 2 or rows * columns <= RAW_ENTRIES:
        return Projection(None, None)
    left = None if rows <= q else normal_matrix(f"{seed}/{name}/left", (q, rows)) / math.sqrt(q)
    right = None if columns <= p else normal_matrix(f"{seed}/{name}/right", (p, columns)) / math.sqrt(p)
    return Projection(left, right)


class Sketch(Reduction):
    """(n_groups, size), or by layer: name -> (n_groups, size).

    Args:
        size: K.
        projection_seed: seed of projections, buckets and signs.
        projections: by parameter name, in place of the random ones.
        per_layer: keep the layers apart.
    """

    def __init__(
        self,
        size: int = 512,
        *,
        projection_seed: int = 0,
        projections: Mapping[str, Projection] | None = None,
        per_layer: bool = False,
    ) -> None:
        if size < 8:
            raise SettingError(f"the sketch size is {size}; expected 8 or more")
        self._size = size
        self._seed = projection_seed
        self._given = dict(projections or {})
        self._per_layer = per_layer
        self._layers: dict[str, list[Tensor]] = {}
        self._sums: list[Tensor] = []
        self._seen: set[str] = set()
        self._waiting: list[tuple[str, Tensor]] = []
        self._n_waiting = 0

    def update(self, name: str, form: GradientForm) -> None:
        entries = self._entries(name, form)
        if self._per_layer:
            self._layers.setdefault(name, []).append(self._folded([(name, entries)]))
            return
        if not self._seen or name in self._seen:  # a parameter comes once in a micro-batch: the next one begins
            self._fold()
            self._sums.append(entries.new_zeros(entries.shape[0], self._size))
            self._seen = set()
        self._seen.add(name)
        self._waiting.append((name, entries))
        self._n_waiting += entries.numel()
        if self._n_waiting > WAITING_ENTRIES:
            self._fold()

    def result(self, names: list[str]) -> Tensor | dict[str, Tensor]:
        unknown = sorted(set(self._given) - set(names))
        if unknown:
            raise SettingError(f"projections are given for {unknown}, which are no trainable parameters of the model")
        if self._per_layer:
            return {name: torch.cat(self._layers[name]) for name in names}
        self._fold()
        return torch.cat(self._sums)

    def _entries(self, name: str, form: GradientForm) -> Tensor:
        """Return the projected gradients of a parameter, (M, q * p)."""
        if form.sample.is_complex():  # real projections know no complex matrices
            return form.vectors()
        given = self._given.get(name)
        like = _Like(form.sample.dtype, form.sample.device)
        if given is None:
            left, right = _cached_projection(name, form.shape, self._size, self._seed, like)
        else:
            given.size(form.shape)
            left, right = like.cast(given.left), like.cast(given.right)
        if left is not None and left.dim() == 1:
            return (form.project(None, right) * left[:, None]).flatten(1)
        return form.vectors() if left is None and right is None else form.project(left, right).flatten(1)

    def _fold(self) -> None:
        if self._waiting:
            self._sums[-1] += self._folded(self._waiting)
            self._waiting, self._n_waiting = [], 0

    def _folded(self, waiting: Sequence[tuple[str, Tensor]]) -> Tensor:
        """Return the buckets (M, K) of some parameters' entries."""
        first = waiting[0][1]
        like = _Like(first.dtype, first.device)
        places = tuple((name, entries.shape[1]) for name, entries in waiting)
        order, starts, signs = _cached_buckets(places, self._size, self._seed, like)
        rows = torch.cat([entries.mT for _, entries in waiting])
        # adds up rows, several times as fast as index_add_ does columns
        return F.embedding_bag(order, rows, starts, mode="sum", per_sample_weights=signs).mT


class SketchedNorms(Sketch):
    """name -> (n_groups,): ||G||^2 at a sketch's price, or with given projections ||R_g G R_a^T||^2 before the buckets.

    Vectors and matrices give their exact squared norm. Kernels, of three axes or more, whose exact norm is the dear
    one, give that of their projection: with random R's an unbiased estimate. Arguments as :class:`Sketch`.
    """

    def __init__(
        self, size: int = 512, *, projection_seed: int = 0, projections: Mapping[str, Projection] | None = None
    ) -> None:
        super().__init__(size, projection_seed=projection_seed, projections=projections, per_layer=True)

    def update(self, name: str, form: GradientForm) -> None:
        # by the shape alone: the same samples must give the same number however they are batched
        exact = name not in self._given and len(form.shape) <= EXACT_AXES
        norms = form.squared_norm() if exact else self._entries(name, form).square().sum(1)
        self._layers.setdefault(name, []).append(norms)


class _Like(NamedTuple):
    dtype: torch.dtype
    device: torch.device

    def cast(self, value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(self.device, self.dtype)


@lru_cache(maxsize=512)
def _cached_projection(
    name: str, shape: torch.Size, size: int, seed: int, like: _Like
) -> tuple[Tensor | None, Tensor | None]:
    projection = random_projection(name, shape, size, seed)
    return like.cast(projection.left), like.cast(projection.right)


@lru_cache(maxsize=512)
def _cached_buckets(
    places: tuple[tuple[str, int], ...], size: int, seed: int, like: _Like
) -> tuple[Tensor, Tensor, Tensor]:
    """Return some parameters' entries in the order of their buckets, where each bucket begins, and their signs.

    Entries are numbered as they come side by side; the signs are in the order of the buckets. Each parameter has its
    own draw.
    """
    buckets, signs = [], []
    for name, entries in places:
        generator = _generator(f"{seed}/{name}/buckets")
        buckets.append(torch.randint(size, (entries,), generator=generator))
        signs.append(torch.randint(2, (entries,), generator=generator) * 2 - 1)
    bucket, order = torch.cat(buckets).sort(stable=True)
    starts = torch.searchsorted(bucket, torch.arange(size))
    return order.to(like.device), starts.to(like.device), torch.cat(signs)[order].to(like.device, like.dtype)


def normal_matrix(label: str, shape: tuple[int, int]) -> Tensor:
    """Return standard normal numbers by their label, float64, the same in every process."""
    return torch.randn(shape, generator=_generator(label), dtype=torch.float64)


def _generator(label: str) -> torch.Generator:
    digest = hashlib.blake2b(label.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
