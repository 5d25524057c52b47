"""Per-group weight gradients of convolutions and their squared norms: several kernels, one deterministic choice.

All take x (M*S, C, *spatial) and g (M*S, O, *out), S instances a group, and speak of the convolution that maps x to
something shaped like g. The choice depends on shapes, dtype and device type only, never on a clock, so results
reproduce. Work is cut into chunks of groups to bound the workspace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from fisherscope.features.gradients.forms import finely, row_inner, row_squares, settled_norm, summed_instances
from fisherscope.features.gradients.geometry import Geometry

CHUNK_BYTES: Final = {"cpu": 2 << 20}
"""Size of the unfolded copies that a kernel makes at a time: what a core's caches hold; more on other devices."""

ROWS_CHUNK_BYTES: Final = {"cpu": 16 << 20}
"""The same of `rows_norm`, which reads its copies in order and gains by large batches."""

GROUPED_ENTRIES: Final = 65_536
"""Keeps grouped convolutions to eight sample groups at a time on a CPU, measured the fastest."""

CHUNK_BYTES_ELSEWHERE: Final = 256 << 20

ROWS_POSITIONS: Final = 256
"""Up to so many positions of a lone sample `rows_norm` is faster than a grouped convolution, measured on a CPU."""

SMALL_PLANE: Final = 64
"""Up to so many positions a sample `patches_norm` is faster than `rows_norm` for groups of samples, on a CPU."""


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
    instances = value.shape[0] // n_groups
    if instances == 1:
        return value.reshape(n_groups, value.shape[1], -1)
    return value.reshape(n_groups, instances, value.shape[1], -1).transpose(1, 2).flatten(2)


def weight_gradient(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> Tensor:
    """Return the per-group weight gradients, (M, *weight)."""
    if _grouping_pays(x, g, geometry, n_groups):
        return _grouped(x, g, n_groups, geometry)
    if _exchange_pays(geometry):
        exchanged = weight_gradient(g, x, geometry.exchanged, n_groups)
        return exchanged.flip(list(range(3, exchanged.dim()))).transpose(1, 2)
    return _chunked(_from_patches, x, g, geometry, n_groups)


def exchanged_gradient(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> Tensor:
    """Return the per-group weight gradients as (M, O * taps, C), taps reversed: what patches of g yield without a copy.

    Stride and dilation 1, channels not grouped.
    """
    return _chunked(_patch_product, g, x, geometry.exchanged, n_groups)


NormKernel = Callable[[Tensor, Tensor, int, Geometry], Tensor]


def squared_norm(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> Tensor:
    """Return the squared norm of each group's weight gradient, (M,)."""
    kernel = choose(x, g, geometry, n_groups)
    fewer = geometry.weight[0] < geometry.weight[1] if kernel is rows_norm else _exchange_pays(geometry)
    if kernel in (rows_norm, patches_norm) and fewer:  # unfold what has fewer channels
        x, g, geometry = g, x, geometry.exchanged
    return _chunked(kernel, x, g, geometry, n_groups)


def choose(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> NormKernel:
    """Return the kernel of the least estimated cost (multiplications a group; measured on one AVX-512 core)."""
    out, each, taps = geometry.weight[0], geometry.weight[1], math.prod(geometry.kernel)
    instances = g.shape[0] // n_groups
    positions = math.prod(g.shape[2:]) * instances
    direct = positions * out * each * taps
    by_taps = _taps_cost(geometry, positions)
    gram = positions**2 * (each * taps + out) if geometry.groups == 1 else math.inf
    # the other kernels multiply twice as fast, but for strided convolutions of single samples
    faster = 1.25 if instances == 1 and max(geometry.stride) > 1 else 2
    if faster * by_taps < direct or by_taps < gram < direct:
        return taps_norm
    if gram < direct:
        return gram_norm
    plane = geometry.dense_unit and len(geometry.kernel) == 2
    small = plane and instances == 1 and positions <= ROWS_POSITIONS and x.device.type == "cpu"
    if not small and _grouping_pays(x, g, geometry, n_groups):
        return grouped_norm
    by_rows = plane and min(out, each) > 12 and (instances == 1 or math.prod(g.shape[2:]) > SMALL_PLANE)
    return rows_norm if by_rows else patches_norm


def grouped_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """One weight-gradient convolution with a channel group for every sample group."""
    return row_squares(_grouped(x, g, n_groups, geometry))


def patches_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """Patches, then one matrix product a group."""
    return row_squares(_patch_product(x, g, n_groups, geometry).reshape(n_groups, -1))


def gram_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """``sum_ts <a_t, a_s> <g_t, g_s>``: for few positions and many channels."""
    a, b = finely(_patch_columns(x, g, n_groups, geometry)), finely(fold_positions(g, n_groups))
    return settled_norm(
        row_inner(torch.bmm(a.mT, a), torch.bmm(b.mT, b)),
        row_inner(a.square().sum(1), b.square().sum(1)),
        lambda low: row_squares(torch.bmm(a[low], b[low].mT)),
    ).to(x.dtype)


def taps_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """The Gram form without patches: <a_t, a_s> is a sum over the taps of inner products of pixels. Dilation 1.

    One tap sees the pixels of one remainder by the stride: no others need be multiplied.
    """
    (tall, wide), (down, across) = geometry.kernel, geometry.stride
    (height, width), instances = g.shape[2:], x.shape[0] // n_groups
    a, high, broad = _by_remainder(x, g, geometry, n_groups)
    b = finely(fold_positions(g, n_groups))
    pixels = torch.bmm(a.mT, a).reshape(n_groups, down, across, *(instances, high, broad) * 2)
    rows = pixels.new_zeros(n_groups, down, *(instances, high, width) * 2)
    for j in range(wide):
        at, rest = divmod(j, across)
        rows += pixels[:, :, rest, :, :, at : at + width, :, :, at : at + width]
    total = pixels.new_zeros(n_groups, *(instances, height, width) * 2)
    for i in range(tall):
        at, rest = divmod(i, down)
        total += rows[:, rest, :, at : at + height, :, :, at : at + height]
    inputs, outputs = total.reshape(n_groups, instances * height * width, -1), torch.bmm(b.mT, b)

    def exactly(low: Tensor) -> Tensor:
        a, b = (value.reshape(n_groups, instances, *value.shape[1:])[low].flatten(0, 1) for value in (x, g))
        return patches_norm(a, b, len(low), geometry)

    return settled_norm(
        row_inner(inputs, outputs),
        row_inner(inputs.diagonal(dim1=1, dim2=2), outputs.diagonal(dim1=1, dim2=2)),
        exactly,
    ).to(x.dtype)


def _by_remainder(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> tuple[Tensor, int, int]:
    """Return the padded input's pixels by the remainder of their place, and how many rows and columns those are.

    The pixels are (M * remainders, C, S * rows * columns).
    """
    padded = padded_input(x, g, geometry)
    down, across = geometry.stride
    high, broad = -(-padded.shape[2] // down), -(-padded.shape[3] // across)
    rest = (0, broad * across - padded.shape[3], 0, high * down - padded.shape[2])
    padded = F.pad(padded, rest) if any(rest) else padded
    parts = padded.reshape(n_groups, -1, x.shape[1], high, down, broad, across).permute(0, 4, 6, 2, 1, 3, 5)
    return finely(parts.reshape(n_groups * down * across, x.shape[1], -1)), high, broad


def rows_norm(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """Unfold along the last axis only; each kernel row is then a view of the same copy. Stride and dilation 1."""
    height, width = g.shape[2:]
    padded, taps = padded_input(x, g, geometry), geometry.kernel[1]
    shifted = torch.stack([padded[..., tap : tap + width] for tap in range(taps)], dim=1)
    columns = shifted.reshape(x.shape[0], taps * x.shape[1], -1)  # of (M*S, kw, C, H + kh - 1, W)
    b = g.flatten(2)
    total = torch.zeros((), device=x.device)
    for row in range(geometry.kernel[0]):
        part = columns[:, :, row * width : (row + height) * width]
        total = total + row_squares(summed_instances(torch.bmm(b, part.mT), n_groups))
    return total


def _taps_cost(geometry: Geometry, positions: int) -> float:
    """Multiplications of taps_norm for a group, an addition counted as 16 of them; infinite where it does not serve."""
    if geometry.groups != 1 or len(geometry.kernel) != 2 or set(geometry.dilation) != {1}:
        return math.inf
    (out, each), (tall, wide), (down, across) = geometry.weight[:2], geometry.kernel, geometry.stride
    return positions**2 * (down * across * each + out + 16 * (tall + down * wide))


def _exchange_pays(geometry: Geometry) -> bool:
    """Whether to unfold the output gradient instead of the input, being the one of fewer channels."""
    return geometry.dense_unit and 2 * geometry.weight[0] <= geometry.weight[1]


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
    s = x.shape[0] // n_groups
    view = view.reshape(n_groups, s, *view.shape[1:])
    kernel_axes = range(3 + spatial, 3 + 2 * spatial)
    order = (0, 2, *kernel_axes, 1, *range(3, 3 + spatial))
    return view.permute(order).reshape(n_groups, view.shape[2] * math.prod(geometry.kernel), -1)


def _patch_product(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    """Return (M * groups, columns, O / groups); patches on the left make the faster product."""
    # adding up a group's products is cheaper than laying its positions together where the products are the smaller
    apart = math.prod(geometry.weight[1:]) < math.prod(g.shape[2:])
    instances = x.shape[0] if apart else n_groups
    a = _patch_columns(x, g, instances, geometry)
    b = fold_positions(g, instances)
    batch = instances * geometry.groups
    products = torch.bmm(a.reshape(batch, -1, a.shape[2]), b.reshape(batch, -1, b.shape[2]).mT)
    return summed_instances(products.reshape(instances, -1), n_groups).reshape(-1, *products.shape[1:])


def _from_patches(x: Tensor, g: Tensor, n_groups: int, geometry: Geometry) -> Tensor:
    return _patch_product(x, g, n_groups, geometry).mT.reshape(n_groups, *geometry.weight)


def _grouping_pays(x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> bool:
    # oneDNN's blocked weight-gradient kernels want float32, channels in multiples of 16 (of 8 where they have several
    # samples a group to add up), and work to do
    out, each, instances = geometry.weight[0] // geometry.groups, geometry.weight[1], g.shape[0] // n_groups
    block = 16 if instances == 1 else 8
    blocked = x.dtype is torch.float32 and x.device.type == "cpu" and each % block == 0 and out % block == 0
    positions = math.prod(g.shape[2:]) * instances
    return blocked and positions >= 64 and (min(out, each) >= 32 or positions > ROWS_POSITIONS)


def _chunked(kernel: NormKernel, x: Tensor, g: Tensor, geometry: Geometry, n_groups: int) -> Tensor:
    """Run a kernel on some groups at a time, to bound the copies it makes."""
    instances = x.shape[0] // n_groups
    entries = _chunk_entries(kernel, g, geometry, instances)
    budgets = ROWS_CHUNK_BYTES if kernel is rows_norm else CHUNK_BYTES
    budget = budgets.get(x.device.type, CHUNK_BYTES_ELSEWHERE)
    size = max(1, budget // (entries * x.element_size()))
    if size >= n_groups:
        return kernel(x, g, n_groups, geometry)
    pieces = zip(torch.split(x, size * instances), torch.split(g, size * instances), strict=True)
    return torch.cat([kernel(a, b, len(a) // instances, geometry) for a, b in pieces])


def _chunk_entries(kernel: NormKernel, g: Tensor, geometry: Geometry, instances: int) -> int:
    """Entries that a kernel makes for one group."""
    positions = math.prod(g.shape[2:]) * instances
    if kernel is grouped_norm:
        return max(2 * geometry.weight.numel(), GROUPED_ENTRIES)
    if kernel is taps_norm:
        down, across = geometry.stride
        return (down * across + down + 1) * positions**2
    taps = geometry.kernel[-1] if kernel is rows_norm else math.prod(geometry.kernel)
    unfolded = positions * geometry.weight[1] * geometry.groups * taps
    return unfolded + (2 * positions**2 if kernel is gram_norm else geometry.weight.numel())
