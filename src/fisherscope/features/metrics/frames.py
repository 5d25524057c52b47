"""Coordinates in which a metric is diagonal, parameter tensor by parameter tensor.

The matrix view G of a gradient has the coordinates ``left @ G @ right.T``; a metric that is diagonal in them is known
by a weight on each squared coordinate. Identity, diagonal, K-FAC and EKFAC are all of this form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fisherscope.core.errors import DataError
from fisherscope.core.parts import part
from fisherscope.features.gradients import Reduction
from fisherscope.features.gradients.forms import GradientForm, matrix_view
from fisherscope.features.metrics.base import State
from fisherscope.features.metrics.collectors import require_finite
from fisherscope.features.metrics.feature import GradientFeature, trainable_names

ROUND_OFF: Final = 100.0


@dataclass(frozen=True)
class Frame:
    """Coordinates of one parameter tensor, float64.

    Attributes:
        left: (q, R), or None for the identity.
        right: (p, C), or None for the identity.
        mean: m in these coordinates, (q, p), or None for 0.
        weight: of each squared coordinate, (q, p), or None for 1.
    """

    left: Tensor | None = None
    right: Tensor | None = None
    mean: Tensor | None = None
    weight: Tensor | None = None

    def like(self, sample: Tensor) -> Frame:
        """Return the frame in another tensor's dtype and on its device."""
        parts = (self.left, self.right, self.mean, self.weight)
        return Frame(*(None if part is None else part.to(sample.device, sample.dtype) for part in parts))

    def coordinates(self, form: GradientForm) -> Tensor:
        """Return the coordinates of each group's gradient, (M, q, p)."""
        if self.left is None and self.right is None:
            return form.dense().reshape(form.n_groups, *matrix_view(form.shape))
        return form.project(self.left, self.right)


class FrameLengths(Reduction):
    """Squared lengths d^T (B M)^-1 d: name -> (n_groups,); zero for parameters that have no frame.

    Args:
        frames: by parameter name.
        group_size: B.
    """

    def __init__(self, frames: Mapping[str, Frame], group_size: int) -> None:
        self._frames = frames
        self._group_size = group_size
        self._cast: dict[str, Frame] = {}
        self._parts: dict[str, list[Tensor]] = {}

    def update(self, name: str, form: GradientForm) -> None:
        self._parts.setdefault(name, []).append(self._lengths(name, form))

    def result(self, names: list[str]) -> dict[str, Tensor]:
        return {name: torch.cat(self._parts[name]) for name in names}

    def _lengths(self, name: str, form: GradientForm) -> Tensor:
        if name not in self._frames:
            return form.sample.new_zeros(form.n_groups)
        if name not in self._cast:
            self._cast[name] = self._frames[name].like(form.sample)
        frame = self._cast[name]
        deviation = frame.coordinates(form)
        if frame.mean is not None:
            deviation = deviation - self._group_size * frame.mean
        squares = deviation.square()
        if frame.weight is not None:
            squares = squares * frame.weight
        return squares.flatten(1).sum(1) / self._group_size


class LayerLengths(GradientFeature):
    """``metric:NAME`` (N, B, L): each member's equal share of the group's squared length in the metric.

    Args:
        metric: NAME.
        frames: by parameter name.
    """

    per_sample = False

    def __init__(self, metric: str, frames: Mapping[str, Frame]) -> None:
        self.block = f"metric:{metric}"
        self._frames = frames

    def reduction(self, module: nn.Module, group_size: int) -> Reduction:
        return FrameLengths(self._frames, group_size)

    def to_block(self, result: Any, group_size: int) -> Tensor:
        return shares(torch.stack(list(result.values()), dim=1), group_size)

    def columns(self, module: nn.Module) -> tuple[str, ...] | None:
        return trainable_names(module)

    def settings(self, module: nn.Module) -> dict[str, Any] | None:
        return {"sizes": [p.numel() for p in module.parameters() if p.requires_grad]}


def shares(values: Tensor, group_size: int) -> Tensor:
    """Return (N, L) numbers of groups as equal shares of their members, (N, B, L): they add up to the group's."""
    return (values.double() / group_size)[:, None, :].expand(-1, group_size, -1)


class CoordinateMoments(Reduction):
    """Running sums of each coordinate and of its square over single samples, float64, in constant memory.

    Both are about the mean of the first batch, so that a mean far from zero does not drown the variance in round-off.

    Args:
        frames: by parameter name; raw entries for others.
    """

    def __init__(self, frames: Mapping[str, Frame] | None = None) -> None:
        self.frames = dict(frames or {})
        self.counts: dict[str, int] = {}
        self.shifts: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}
        self.epsilon = 0.0

    def update(self, name: str, form: GradientForm) -> None:
        frame = self.frames.get(name, Frame()).like(form.sample)
        values = frame.coordinates(form).double()
        self.epsilon = torch.finfo(form.sample.dtype).eps
        old = self.counts.get(name, 0)
        shift = self.shifts.get(name, values.mean(0)).to(values.device)
        values = values - shift
        total, square = values.sum(0), values.square().sum(0)
        require_finite(square, name, form, old)
        self.counts[name], self.shifts[name] = old + len(values), shift
        self.sums[name] = self.sums[name].to(total.device) + total if old else total
        self.squares[name] = self.squares[name].to(total.device) + square if old else square

    def result(self, names: list[str]) -> None:
        return None

    def mean(self, name: str) -> Tensor:
        """Return the mean of a parameter's coordinates, (q, p)."""
        return self.shifts[name] + self.sums[name] / self.counts[name]

    def variance(self, name: str, centred: bool) -> Tensor:
        """Return their mean square, about the mean if ``centred``, (q, p)."""
        n = self.counts[name]
        about_mean = (self.squares[name] / n - (self.sums[name] / n).square()).clamp_min(0)
        return about_mean if centred else about_mean + self.mean(name).square()

    def speaking(self, centred: bool) -> list[str]:
        """Return the parameters whose mean squared gradient is more than round-off of the model's whole one.

        Raises:
            DataError: there is none.
        """
        size = {name: float(self.variance(name, centred).sum()) for name in self.sums}
        whole = sum(float(self.variance(name, centred=False).sum()) for name in self.sums)
        found = [name for name, value in size.items() if value > (ROUND_OFF * self.epsilon) ** 2 * whole]
        if not found:
            raise DataError(
                "the gradients of all fit samples are the same; give different samples, or check that log_prob "
                "depends on the parameters"
            )
        return found

    def state(self) -> State:
        """Return counts and sums as arrays."""
        arrays: State = {"epsilon": np.asarray(self.epsilon)}
        for name in self.sums:
            arrays[f"count:{name}"] = np.asarray(self.counts[name])
            arrays[f"shift:{name}"] = self.shifts[name].cpu().numpy()
            arrays[f"sum:{name}"] = self.sums[name].cpu().numpy()
            arrays[f"square:{name}"] = self.squares[name].cpu().numpy()
        return arrays

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state` returned."""
        self.epsilon = float(state["epsilon"])
        self.counts = {k: int(v) for k, v in part(state, "count:").items()}
        self.shifts = {k: torch.from_numpy(v.copy()) for k, v in part(state, "shift:").items()}
        self.sums = {k: torch.from_numpy(v.copy()) for k, v in part(state, "sum:").items()}
        self.squares = {k: torch.from_numpy(v.copy()) for k, v in part(state, "square:").items()}


def inverse_weight(variance: Tensor, damping: float) -> Tensor:
    """Return 1 / (variance + damping * mean variance)."""
    return 1 / (variance + damping * variance.mean())
