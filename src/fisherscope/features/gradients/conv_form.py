"""The per-group weight gradient of a convolution, by its input and output gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from fisherscope.features.gradients import kernels
from fisherscope.features.gradients.forms import GradientForm, KroneckerFactors, left_product, summed_instances
from fisherscope.features.gradients.geometry import Geometry

MANY_CHANNELS: Final = 64
MANY_POSITIONS: Final = 256
"""From so many of both on it is faster to unfold the few rows of a projected output gradient than to filter the input
(measured on a CPU)."""


class ConvForm(GradientForm):
    """Weight gradient of the convolution that maps ``x`` to something shaped like ``g``.

    A transposed convolution has the same weight gradient with its input and output gradient exchanged.

    Args:
        x: (M*S, C, *spatial).
        g: (M*S, O, *out).
        geometry: of the convolution.
        n_groups: M.
        inputs_first: True for transposed convolutions, where ``g`` holds the layer's inputs.
    """

    def __init__(self, x: Tensor, g: Tensor, geometry: Geometry, n_groups: int, *, inputs_first: bool) -> None:
        self.x = x
        self.g = g
        self.geometry = geometry
        self.inputs_first = inputs_first
        self._n_groups = n_groups

    @property
    def shape(self) -> torch.Size:
        return self.geometry.weight

    @property
    def n_groups(self) -> int:
        return self._n_groups

    @property
    def sample(self) -> Tensor:
        return self.g

    @property
    def nbytes(self) -> int:
        return (self.x.numel() + self.g.numel()) * self.x.element_size()

    def dense(self) -> Tensor:
        return kernels.weight_gradient(self.x, self.g, self.geometry, self._n_groups)

    def squared_norm(self) -> Tensor:
        return kernels.squared_norm(self.x, self.g, self.geometry, self._n_groups)

    def project(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        if left is None and right is None:
            return self.dense().flatten(2)
        if self.geometry.groups > 1:
            return torch.bmm(self._project_rows(left), self._project_columns(right).mT)
        if left is not None and (right is None or self._many):
            return self._project_left_first(left, right)
        rows = self.g.flatten(2) if left is None else left_product(left, self.g.flatten(2))
        return summed_instances(torch.bmm(rows, self._filtered(right).flatten(2).mT), self._n_groups)

    def kronecker(self) -> KroneckerFactors | None:
        if self.geometry.groups > 1:
            return None
        rows = self.g.movedim(1, -1).flatten(0, -2)
        view = kernels.patches(self.x, self.g, self.geometry)
        spatial = len(self.geometry.kernel)
        positions = (0, *range(2, 2 + spatial))
        columns = view.permute(*positions, 1, *range(2 + spatial, 2 + 2 * spatial)).reshape(len(rows), -1)
        inputs, outputs = (rows, columns) if self.inputs_first else (columns, rows)
        return KroneckerFactors(inputs.mT @ inputs, outputs.mT @ outputs, len(rows), self._n_groups, self.inputs_first)

    @property
    def _many(self) -> bool:
        many = self.geometry.weight[1] >= MANY_CHANNELS and math.prod(self.g.shape[2:]) >= MANY_POSITIONS
        return many and self.geometry.dense_unit

    def _project_left_first(self, left: Tensor, right: Tensor | None) -> Tensor:
        """The weight gradient for ``left @ g``, a convolution of q output channels, then ``right``."""
        g = left_product(left, self.g.flatten(2)).reshape(len(self.g), len(left), *self.g.shape[2:])
        geometry = replace(self.geometry, weight=torch.Size((len(left), *self.geometry.weight[1:])))
        if right is None:
            return kernels.weight_gradient(self.x, g, geometry, self._n_groups).flatten(2)
        # the gradient as that of the exchanged convolution, its taps reversed and before the input's channels
        taps = tuple(range(2, 2 + len(geometry.kernel)))
        reversed_right = right.reshape(-1, *geometry.weight[1:]).flip(taps).movedim(1, -1).flatten(1)
        narrow = kernels.exchanged_gradient(self.x, g, geometry, self._n_groups)
        return torch.matmul(narrow.reshape(self._n_groups, len(left), -1), reversed_right.mT)

    def _filtered(self, right: Tensor | None) -> Tensor:
        """Return ``right`` applied to every patch of each channel group, (M*S, groups * p, *out)."""
        weight, groups = self.geometry.weight, self.geometry.groups
        columns = math.prod(weight[1:])
        matrix = torch.eye(columns, dtype=self.x.dtype, device=self.x.device) if right is None else right
        filters = matrix.reshape(-1, *weight[1:])
        if groups > 1:
            filters = filters.repeat(groups, *(1,) * (len(weight) - 1))
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.geometry.kernel) - 1]
        out = convolve(
            self.x, filters, None, self.geometry.stride, self.geometry.padding, self.geometry.dilation, groups
        )
        if out.shape[2:] != self.g.shape[2:]:  # a transposed convolution with output padding
            for axis, size in enumerate(self.g.shape[2:]):
                out = out.narrow(2 + axis, 0, size)
        return out

    def _project_rows(self, left: Tensor | None) -> Tensor:
        """Return (M, q, groups * S * positions): each channel group's part of ``left @ g``, side by side."""
        n, out = self.g.shape[:2]
        groups, each = self.geometry.groups, out // self.geometry.groups
        matrix = torch.eye(out, dtype=self.g.dtype, device=self.g.device) if left is None else left
        parts = matrix.reshape(len(matrix), groups, each).transpose(0, 1)  # (groups, q, each)
        return self._side_by_side(torch.matmul(parts, self.g.reshape(n, groups, each, -1)))

    def _project_columns(self, right: Tensor | None) -> Tensor:
        """Return (M, p, groups * S * positions): ``right`` applied to every patch, side by side."""
        n, groups = len(self.x), self.geometry.groups
        out = self._filtered(right)
        return self._side_by_side(out.reshape(n, groups, out.shape[1] // groups, -1))

    def _side_by_side(self, value: Tensor) -> Tensor:
        """(M*S, groups, q, T) -> (M, q, S * groups * T)."""
        n, groups, q, positions = value.shape
        folded = value.reshape(self._n_groups, n // self._n_groups * groups, q, positions)
        return folded.transpose(1, 2).reshape(self._n_groups, q, -1)
