"""The two metrics that are diagonal in the raw entries of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from fisherscope.features.gradients import Reduction
from fisherscope.features.metrics.base import FisherMetric, State
from fisherscope.features.metrics.damping import Dampings
from fisherscope.features.metrics.feature import GradientFeature
from fisherscope.features.metrics.frames import CoordinateMoments, Frame, LayerLengths, inverse_weight


class EntrywiseMetric(FisherMetric):
    """Identity, ||d||^2 / B, or diagonal, sum_i d_i^2 / (B (F_ii + lambda)) (docs/metrics.md).

    F_ii is the mean square of the i-th entry over the fit samples, about its mean if centred, and lambda =
    ``damping`` x the mean F_ii of the parameter tensor at the first fit. Streaming: two running sums a parameter.

    Args:
        name: how blocks call it.
        whitened: divide by F_ii; False: the identity.
        centred: subtract the fit samples' mean gradient.
        damping: relative, see above.
    """

    stages = 1
    growing = (0,)

    def __init__(self, name: str, *, whitened: bool, centred: bool = True, damping: float = 1e-2) -> None:
        self.name = name
        self._whitened = whitened
        self._centred = centred
        self._dampings = Dampings(damping)
        self._moments = CoordinateMoments()
        self._frames: dict[str, Frame] = {}

    def collector(self, stage: int) -> Reduction:
        return self._moments

    def finish(self, stage: int) -> None:
        self._frames = {
            name: Frame(
                mean=self._moments.mean(name) if self._centred else None,
                weight=self._weight(name) if self._whitened else None,
            )
            for name in self._moments.speaking(self._centred)
        }

    def _weight(self, name: str) -> Tensor:
        variance = self._moments.variance(name, self._centred)
        return inverse_weight(variance, self._dampings.relative_to(variance, name))

    def features(self) -> tuple[GradientFeature, ...]:
        return (LayerLengths(self.name, self._frames),)

    def state(self) -> State:
        return {**self._moments.state(), **self._dampings.state()} if self._frames else {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._moments.restore(state)
        self._dampings.restore(state)
        self.finish(0)
