"""Where in an image a score comes from: its parameter gradient, taken apart by the positions that it is a sum over.

The gradient of a convolution is a sum over positions p, g = sum_p a_p (x) delta_p, and so is that of every layer that
reads its parameters at each position. With v = d score / d g, held fixed, <v, g> = sum_p <v, a_p (x) delta_p>: an exact
attribution of <v, g> to the positions, without a second derivative. For any op that mixes parameters with data,
<v, a_p (x) delta_p> is the op's output gradient at p times the derivative of its output at p along v, where v moves the
parameters of this op alone. The derivative comes from forward-mode differentiation of that one op.

Which axes of an output are rows and columns is known of a few ops alone: convolutions and the norms of channels-first
images, channel-wise arithmetic with parameters (C, 1, 1), and layers over the last axis of channels-last images. What
other ops contribute, such as a bias of attention weights (1, heads, N, N), is given no position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fisherscope.core.errors import ModelError
from fisherscope.features.extractors import Request
from fisherscope.features.gradients import bind_log_prob
from fisherscope.features.gradients.guards import check_modes, trainable_parameters, unchanged_state
from fisherscope.features.gradients.logprob import check_log_prob
from fisherscope.features.gradients.loop import sample_gradients
from fisherscope.features.local_tangent import LocalTangent, Meeting, tangents, unpacked
from fisherscope.features.metrics.feature import GradientFeature
from fisherscope.features.parameter_cotangent import Named, ParameterCotangent, contributions

TOLERANCE: Final = {torch.float64: 1e-8, torch.float32: 1e-4}
"""By how much of the sum of their magnitudes the contributions may miss <v, g>."""

_CHANNELS_FIRST: Final = frozenset({"batch_norm", "group_norm", "instance_norm"})
_CHANNELS_LAST: Final = {"linear": 2, "matmul": 2, "layer_norm": 1, "rms_norm": 1}
"""Ops over the last axis, and how many axes their parameters have at most; a norm over (C, H, W) is no such op."""
_CHANNEL_WISE: Final = frozenset(
    {"add", "radd", "sub", "rsub", "subtract", "mul", "rmul", "multiply", "div", "rdiv", "truediv", "rtruediv",
     "divide", "true_divide", "addcmul", "addcdiv", "lerp", "where", "maximum", "minimum", "pow", "rpow"}
)  # fmt: skip


class NoPositionsError(ModelError):
    """Samples, score or model allow no map of positions."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; ask for another map (method 'contrast')")


@dataclass(frozen=True)
class PositionMap:
    """Which positions of an image the score's parameter gradient comes from.

    Attributes:
        maps: (n, H, W), float64; a map adds up to its sample's <d score / d g, g>. A layer of lower resolution spreads
            its contributions evenly over the pixels that a position covers.
        unplaced: the part of each sample that comes from no known position (a log-determinant, a layer without a
            grid, an op whose axes may mean anything), (n,); it is spread evenly over the map.
        contributions: <d score / d g_l, g_l> of each group and parameter tensor, (n / B, L).
        layers: names of the parameter tensors.
    """

    maps: NDArray[np.float64]
    unplaced: NDArray[np.float64]
    contributions: NDArray[np.float64]
    layers: tuple[str, ...]


def position_map(
    request: Request, cotangent: Mapping[str, NDArray[Any]], features: Sequence[GradientFeature]
) -> PositionMap:
    """Return the map of every image.

    Args:
        request: the samples, images (n, C, H, W).
        cotangent: d score / d block by block. The blocks ``log_p`` and ``pixels`` are no functions of the parameter
            gradient: what the score draws from them has no place in the map.
        features: what fills the gradient blocks among them.

    Raises:
        NoPositionsError: the samples are no images, the score reads no parameter gradient, no layer's output is known
            to lie on a grid that divides the image, an op has no forward derivative, or the contributions do not add
            up.
        SettingError: a block has no gradient.
    """
    if not isinstance(request.x, np.ndarray) or request.x.ndim != 4:
        raise NoPositionsError("a map of positions needs images (n, C, H, W)")
    pull = ParameterCotangent(request.module, cotangent, features, request.group_size)
    if not pull.features:
        raise NoPositionsError("the score reads no parameter gradient, so that none has a position")
    check_modes(request.module)
    job = _Job(request, pull)
    with torch.inference_mode(False), torch.enable_grad(), unchanged_state(request.module):
        groups = [job.group(i) for i in range(len(request.keys) // request.group_size)]
    members = [member for maps, _ in groups for member in maps]
    return PositionMap(
        maps=torch.stack([grid.total() for grid in members]).cpu().numpy(),
        unplaced=np.asarray([float(grid.unplaced) for grid in members]),
        contributions=torch.stack([total for _, total in groups]).numpy(),
        layers=tuple(job.parameters),
    )


class _Job:
    def __init__(self, request: Request, pull: ParameterCotangent) -> None:
        self.parameters = trainable_parameters(request.module)
        self._request = request
        self._pull = pull
        self._log_prob = bind_log_prob(request.module, request.log_prob)
        self._x: Tensor = request.tensors()

    def group(self, index: int) -> tuple[list[_Grid], Tensor]:
        """Return the grid of each member of a group, and the contributions of its layers, (L,)."""
        size = self._request.group_size
        rows = range(index * size, (index + 1) * size)
        gradients = [self._gradients(row) for row in rows]
        weights = self._pull.at(gradients, index)
        grids = [self._grid(row, w) for row, w in zip(rows, weights, strict=True)]
        for grid, gradient, weight in zip(grids, gradients, weights, strict=True):
            grid.check(contributions([gradient], [weight], list(weight)).sum())
        return grids, contributions(gradients, weights, list(self.parameters))

    def _gradients(self, row: int) -> Named:
        found = sample_gradients(self._log_p(self._x[row : row + 1], row), list(self.parameters.values()))
        return dict(zip(self.parameters, found, strict=True))

    def _log_p(self, x: Tensor, row: int) -> Tensor:
        value = self._log_prob(x, self._request.seed, self._request.keys[row : row + 1])
        return check_log_prob(value, 1, row)[0]

    def _grid(self, row: int, directions: Named) -> _Grid:
        x = self._x[row : row + 1].detach().clone().requires_grad_()
        grid = _Grid(x)
        moved = [(parameter, directions[name]) for name, parameter in self.parameters.items() if name in directions]
        try:
            with tangents(), LocalTangent(moved, grid.add):
                log_p, slope = unpacked(self._log_p(x, row))
                if slope is not None:
                    grid.unplaced += slope.detach().double()
        except NotImplementedError as cause:  # what torch raises for such an op; out of memory is a RuntimeError too
            raise NoPositionsError(f"log p has no forward derivative: {str(cause).splitlines()[0]}") from None
        # outside of the level: what the forward pass saved has lost its derivatives, and the backward pass is plain
        if log_p.requires_grad:
            torch.autograd.grad(log_p, x)
        if not grid.placed:
            raise NoPositionsError(
                f"no layer of {type(self._request.module).__name__} has an output that is known to lie on a grid that "
                f"divides the image of {x.shape[2]}x{x.shape[3]}"
            )
        return grid


class _Grid:
    """Contributions of one image, by pixel."""

    def __init__(self, x: Tensor) -> None:
        self._size = tuple(x.shape[2:])
        self._tolerance = TOLERANCE[x.dtype if x.dtype in TOLERANCE else torch.float32]
        self._sums: dict[tuple[int, ...], Tensor] = {}
        self._magnitude = torch.zeros((), dtype=torch.float64, device=x.device)
        self.unplaced = torch.zeros((), dtype=torch.float64, device=x.device)

    @property
    def placed(self) -> bool:
        """Whether any contribution has a position."""
        return bool(self._sums)

    def add(self, op: Meeting, products: Tensor) -> None:
        """Take the contributions of one op: its output's gradient times its output's derivative, entry by entry."""
        products = products.double()
        self._magnitude += products.abs().sum()
        axes = _grid_axes(op, products.shape)
        shape = () if axes is None else tuple(products.shape[axis] for axis in axes)
        if axes is None or any(whole % part for whole, part in zip(self._size, shape, strict=True)):
            self.unplaced += products.sum()
            return
        known = self._sums.get(shape)
        total = products.sum([axis for axis in range(4) if axis not in axes])
        self._sums[shape] = total if known is None else known + total

    def total(self) -> Tensor:
        """Return the map, (H, W)."""
        height, width = self._size
        out = (self.unplaced / (height * width)).expand(height, width).clone()
        for (rows, columns), values in self._sums.items():
            tall, wide = height // rows, width // columns
            out += values.repeat_interleave(tall, 0).repeat_interleave(wide, 1) / (tall * wide)
        return out

    def check(self, expected: Tensor) -> None:
        """Raise :class:`NoPositionsError` unless the contributions add up to <v, g>."""
        found = float(self.total().sum())
        if abs(found - float(expected)) > self._tolerance * (float(self._magnitude) + abs(float(expected))):
            raise NoPositionsError(
                f"the contributions of the positions add up to {found:g}, the score's gradient to {float(expected):g}: "
                "a parameter reaches log p past torch's functions (a custom autograd.Function?)"
            )


def _grid_axes(op: Meeting, shape: Sequence[int]) -> tuple[int, int] | None:
    """Return which axes of an op's output, of this shape, are rows and columns; None where that is not known."""
    if len(shape) != 4:
        return None
    name, parameters = op.name.strip("_"), op.parameters.values()
    reads_data = 0 not in op.parameters  # its first operand is what the others are applied to
    if reads_data and (name.startswith("conv") or name in _CHANNELS_FIRST):
        return 2, 3
    if name in _CHANNEL_WISE and all(p[-3:] == (shape[1], 1, 1) for p in parameters):
        return 2, 3
    if name == "prelu" and all(p == (shape[1],) for p in parameters):
        return 2, 3
    if reads_data and name in _CHANNELS_LAST and all(len(p) <= _CHANNELS_LAST[name] for p in parameters):
        return 1, 2
    return None
