"""Where the samples lie in a tensor, found by which entries each sample's log p depends on.

A model may keep its batch on any axis, or fold it into one (``(N*T, C)``, ``(T*N, C)``). Shapes alone cannot tell
those apart, so a probe at two batch sizes looks at the support of d log p[i] / d tensor for every sample i, and
only a layout that explains every nonzero entry, at both sizes, is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The batch of n lies on ``axis``, whose size is ``outer * n * inner``."""

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def plain(self) -> bool:
        """Whether the tensor is (n, ...)."""
        return self == BATCH_FIRST

    def shape_for(self, shape: torch.Size, n: int) -> torch.Size:
        """Return the shape that a tensor of ``shape``, on this layout, has with n samples."""
        return _shape_for(self, shape, n)

    def labels(self, n: int, device: torch.device) -> Tensor:
        """Return the sample index of each entry along the axis, (outer * n * inner,)."""
        each = torch.arange(n, device=device).repeat_interleave(self.inner)
        return each.repeat(self.outer)

    def batch_first(self, value: Tensor, n: int) -> Tensor:
        """Return ``value`` as (n, ...), the outer and inner parts left in the place of the axis."""
        if self.plain:
            return value
        parts = (*value.shape[: self.axis], self.outer, n, self.inner, *value.shape[self.axis + 1 :])
        return value.reshape(parts).movedim(self.axis + 1, 0)


@lru_cache(maxsize=4096)
def _shape_for(layout: Layout, shape: torch.Size, n: int) -> torch.Size:
    axis = layout.axis
    return torch.Size((*shape[:axis], layout.outer * n * layout.inner, *shape[axis + 1 :]))


BATCH_FIRST = Layout(0)

Support = list[list[Tensor]]
"""For each sample, for each axis: which indices hold a nonzero gradient entry (bool vectors)."""


def support_of(gradient: Tensor) -> list[Tensor]:
    """Return, axis by axis, which indices of ``gradient`` hold a nonzero entry."""
    nonzero = gradient != 0
    marks = []
    for axis in range(gradient.dim()):
        others = [d for d in range(gradient.dim()) if d != axis]
        marks.append(nonzero.any(dim=others) if others else nonzero)
    return marks


@dataclass(frozen=True)
class Observation:
    """What one probe saw of one tensor: its shape with n samples, and the support of each sample's gradient."""

    n: int
    shape: torch.Size
    support: Support

    @property
    def reached(self) -> bool:
        """Whether any gradient, zero or not, arrived at the tensor."""
        return any(self.support)

    @property
    def dead(self) -> bool:
        """Whether no sample's log p depends on the tensor, to first order, at this point."""
        return not any(bool(marks[0].any()) for marks in self.support if marks)


def infer_layout(observations: Sequence[Observation]) -> Layout | None:
    """Return the one layout that explains all observations, or None.

    A tensor whose gradient is zero for all samples of the probes is taken for (n, ...) if its shape says so.
    """
    found = [layout for layout in _candidates(observations) if all(_explains(layout, o) for o in observations)]
    if all(o.dead for o in observations):
        return BATCH_FIRST if BATCH_FIRST in found else None
    return found[0] if len(found) == 1 else None


def _candidates(observations: Sequence[Observation]) -> list[Layout]:
    first = observations[0]
    if any(len(o.shape) != len(first.shape) for o in observations):
        return []
    found = []
    for axis, size in enumerate(first.shape):
        each, rest = divmod(size, first.n)
        rows = [o.shape[axis] == each * o.n for o in observations]
        others = [o.shape[:axis] + o.shape[axis + 1 :] for o in observations]
        if rest or not each or not all(rows) or any(o != others[0] for o in others):
            continue
        found += [Layout(axis, each // inner, inner) for inner in range(1, each + 1) if each % inner == 0]
    return found


def _explains(layout: Layout, observation: Observation) -> bool:
    for sample, marks in enumerate(observation.support):
        if marks:
            foreign = layout.labels(observation.n, marks[layout.axis].device) != sample
            if bool((marks[layout.axis] & foreign).any()):
                return False
    return True


@lru_cache(maxsize=4096)
def _broadcast_axes(full: torch.Size, shape: tuple[int, ...], axis: int) -> tuple[tuple[int, ...], bool]:
    """Return the axes but one along which a tensor of ``shape`` is repeated to ``full``, and if along that one too."""
    aligned = (1,) * (len(full) - len(shape)) + shape
    repeated = (d for d, size in enumerate(full) if aligned[d] == 1 and d != axis and size != 1)
    return tuple(repeated), aligned[axis] == 1


@dataclass(frozen=True)
class Fold:
    """How n samples on a layout make M = n / B groups.

    Attributes:
        n: number of samples.
        group_size: B.
        layout: where they lie in an op's output.
    """

    n: int
    group_size: int
    layout: Layout

    @property
    def n_groups(self) -> int:
        """M."""
        return self.n // self.group_size

    def positions(self, value: Tensor, event_dims: int) -> Tensor:
        """Return (M, T, *event): the last ``event_dims`` axes kept, all others folded into positions of the group."""
        event = value.shape[value.dim() - event_dims :]
        return self.layout.batch_first(value, self.n).reshape(self.n_groups, -1, *event)

    def sum_to(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        """Sum an elementwise gradient over what broadcasting repeated, group by group: (M, *shape).

        Args:
            value: gradient with respect to a parameter expanded to the op's output shape.
            shape: shape of the parameter.
        """
        axis = self.layout.axis
        repeated, shared = _broadcast_axes(value.shape, tuple(shape), axis)
        summed = value.sum(repeated, keepdim=True) if repeated else value
        if shared:
            per_sample = self.layout.batch_first(summed, self.n)
            if not self.layout.plain:
                per_sample = per_sample.sum((axis + 1, axis + 2))
            if self.group_size == 1:
                return per_sample.reshape(self.n_groups, *shape)
            return per_sample.reshape(self.n_groups, self.group_size, *shape).sum(1)
        # the parameter itself runs along the batch: each group owns only its own entries of it
        return self.blocks(summed).reshape(self.n_groups, *shape)

    def blocks(self, value: Tensor) -> Tensor:
        """Return (M, *value.shape): for each group ``value`` where it is the group's, 0 elsewhere."""
        group_of = self.layout.labels(self.n, value.device) // self.group_size
        own = group_of == torch.arange(self.n_groups, device=value.device)[:, None]
        mask = own.reshape(self.n_groups, *(1 if d != self.layout.axis else -1 for d in range(value.dim())))
        return torch.where(mask, value, value.new_zeros(()))
