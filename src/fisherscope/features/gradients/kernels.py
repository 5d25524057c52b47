"""Per-group weight gradients of convolutions and their squared norms: several kernels, one deterministic choice.

All take x (M*S, C, *spatial) and g (M*S, O, *out), S instances a group, and speak of the convolution that maps x to
something shaped like g. The choice depends on shapes, dtype and device type only, never on a clock, so results
reproduce. Work is cut into chunks of groups to bound the workspace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from fisherscope.features.gradients.forms import row_inner, row_squares

WORKSPACE_BYTES: Final = 32 << 20


@dataclass(frozen=True)
class Geometry:
    """Shape of a convolution.

    Attributes:
        weight: (O, C / groups, *kernel).
        stride, padding, dilation: one number an axis.
        groups: channel groups.
    """

    weight: torch.Size
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def kernel(self) -> torch.Size:
        """Kernel size, one number an axis."""
        return self.weight[2:]

    @property
    def dense_unit(self) -> bool:
        """Whether stride and dilation are 1 everywhere and channels are not grouped."""
        return self.groups == 1 and set(self.stride) == {1} == set(self.dilation)

    @property
    def pointwise(self) -> bool:
        """Whether every output position sees exactly the input at the same position."""
        return self.dense_unit and set(self.kernel) == {1} and set(self.padding) == {0}


def padded_input(x: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
    """Return x padded, and cut to what the output positions of g look at."""
    pads: list[int] = []
    for axis in reversed(range(len(geometry.kernel))):
        need = (g.shape[2 + axis] - 1) * geometry.stride[axis]
        need += geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        before = geometry.padding[axis]
        pads += [before, need - before - x.shape[2 + axis]]
    return F.pad(x, pads) if any(pads) else x


def patches(x: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
    """Return a view (N, C, *out, *kernel) of the padded input."""
    view = padded_input(x, g, geometry)
    for axis, size in enumerate(geometry.kernel):
        dilation = geometry.dilation[axis]
        view = view.unfold(2 + axis, dilation * (size - 1) + 1, geometry.stride[axis])
        if dilation > 1:
            view = view[..., ::dilation]
    return view


def fold_positions(value: Tensor, n_groups: int) -> Tensor:
    """Return (M, channels, S * positions) from (M*S, channels, *positions)."""
    instances = len(value) // n_groups
    if instances == 1:
        return value.reshape(n_groups, value.shape[1], -1)
    return value.reshape(n_groups, instances, value.shape[1], -1).transpose(1, 2).flatten(2)


def weight_gradient(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> Tensor:
    """Return the per-group weight gradients, (M, *weight)."""
    kernel = _grouped if _aligned(x, geometry) else _from_patches
    return torch.cat([kernel(*part, geometry) for part in _chunks(x, g, geometry, n_groups)])


def squared_norm(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> Tensor:
    """Return the squared norm of each group's weight gradient, (M,)."""
    kernel = choose(x, g, geometry, n_groups)
    return torch.cat([kernel(*part, geometry) for part in _chunks(x, g, geometry, n_groups)])


NormKernel = Callable[[Tensor, Tensor, int, Geometry], Tensor]


def choose(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> NormKernel:
    """Return the kernel of the least estimated cost."""
    positions = math.prod(g.shape[2:]) * (len(g) // n_groups)
    columns = math.prod(geometry.weight[1:])
    if geometry.groups == 1 and positions * (columns + len(geometry.weight)) < columns * geometry.weight[0]:
        return gram_norm
    if _aligned(x, geometry):
        return grouped_norm
    if geometry.dense_unit and len(geometry.kernel) <= 2:
        return rows_norm
    return patches_norm


def grouped_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """One weight-gradient convolution with a channel group for every sample group."""
    return row_squares(_grouped(x, g, n_groups, geometry))


def patches_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """Patches, then one matrix product a group."""
    return row_squares(_from_patches(x, g, n_groups, geometry))


def gram_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """``sum_ts <a_t, a_s> <g_t, g_s>``: for few positions and many channels."""
    a = _patch_columns(x, g, n_groups, geometry)
    b = fold_positions(g, n_groups)
    return row_inner(torch.bmm(a.mT, a), torch.bmm(b.mT, b)).clamp_min(0)


def rows_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """Unfold along the last axis only; each kernel row is then a slice of the same copy. Stride and dilation 1."""
    kh = geometry.kernel[0] if len(geometry.kernel) == 2 else 1
    width, s = g.shape[-1], len(g) // n_groups
    padded = padded_input(x, g, geometry)
    if len(geometry.kernel) == 1:
        padded, g = padded[:, :, None], g[:, :, None]
    height = g.shape[2]
    view = padded.unfold(3, width, 1)  # (M*S, C, H + kh - 1, kw, W)
    view = view.reshape(n_groups, s, *view.shape[1:]).permute(0, 2, 4, 3, 1, 5)
    columns = view.reshape(n_groups, -1, view.shape[3], s * width)
    b = g.reshape(n_groups, s, g.shape[1], height, width).permute(0, 2, 3, 1, 4).reshape(n_groups, g.shape[1], -1)
    total = b.new_zeros(n_groups)
    for row in range(kh):
        total = total + row_squares(torch.bmm(b, columns[:, :, row : row + height].flatten(2).mT))
    return total


def _grouped(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    spatial = len(geometry.kernel)
    padding = geometry.padding
    if _output_size(x, geometry) != g.shape[2:]:  # a transposed convolution with output padding
        x, padding = padded_input(x, g, geometry), (0,) * spatial

    def side_by_side(value: Tensor) -> Tensor:
        s = len(value) // n_groups
        folded = value.reshape(n_groups, s, *value.shape[1:]).transpose(0, 1)
        return folded.reshape(s, n_groups * value.shape[1], *value.shape[2:])

    shape_only = x.new_empty(()).expand(n_groups * geometry.weight[0], *geometry.weight[1:])
    gradient: Tensor = torch.ops.aten.convolution_backward(
        side_by_side(g),
        side_by_side(x),
        shape_only,
        None,
        geometry.stride,
        padding,
        geometry.dilation,
        False,
        [0] * spatial,
        n_groups * geometry.groups,
        [False, True, False],
    )[1]
    return gradient.reshape(n_groups, *geometry.weight)


def _output_size(x: Tensor, geometry: Geometry) -> tuple[int, ...]:
    sizes = zip(x.shape[2:], geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    return tuple((size + 2 * pad - dil * (k - 1) - 1) // stride + 1 for size, k, stride, pad, dil in sizes)


def _patch_columns(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    spatial = len(geometry.kernel)
    view = patches(x, g, geometry)
    s = len(x) // n_groups
    view = view.reshape(n_groups, s, *view.shape[1:])
    kernel_axes = range(3 + spatial, 3 + 2 * spatial)
    order = (0, 2, *kernel_axes, 1, *range(3, 3 + spatial))
    return view.permute(order).reshape(n_groups, view.shape[2] * math.prod(geometry.kernel), -1)


def _from_patches(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    a = _patch_columns(x, g, n_groups, geometry)
    b = fold_positions(g, n_groups)
    batch = n_groups * geometry.groups
    product = torch.bmm(b.reshape(batch, -1, b.shape[2]), a.reshape(batch, -1, a.shape[2]).mT)
    return product.reshape(n_groups, *geometry.weight)


def _aligned(x: Tensor, geometry: Geometry) -> bool:
    # oneDNN's blocked weight-gradient kernels want float32 and channels in multiples of 16
    out, each = geometry.weight[0], geometry.weight[1]
    blocked = x.dtype is torch.float32 and each % 16 == 0 and (out // geometry.groups) % 16 == 0
    return blocked and x.device.type == "cpu"


def _chunks(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> Sequence[tuple[Tensor, Tensor, int]]:
    instances = len(x) // n_groups
    unfolded = math.prod(g.shape[2:]) * instances * (math.prod(geometry.weight[1:]) * geometry.groups + g.shape[1])
    bytes_each = (geometry.weight.numel() + unfolded) * x.element_size()
    size = max(1, min(n_groups, WORKSPACE_BYTES // max(1, bytes_each)))
    if size == n_groups:
        return [(x, g, n_groups)]
    pieces = zip(torch.split(x, size * instances), torch.split(g, size * instances), strict=True)
    return [(a, b, len(a) // instances) for a, b in pieces]
