"""K-FAC and EKFAC: the Fisher matrix of a linear map as a Kronecker product of two small ones.

Parameters without Kronecker structure (biases, scales, tied or derived parameters, grouped convolutions, and those
that the plain loop serves) are measured in the diagonal metric; a model of such parameters alone is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fisherscope.core.parts import part
from fisherscope.features.gradients import Reduction
from fisherscope.features.metrics.base import FisherMetric, State
from fisherscope.features.metrics.collectors import Several
from fisherscope.features.metrics.damping import Dampings
from fisherscope.features.metrics.factors import FactorSums, eigen, whitening
from fisherscope.features.metrics.feature import GradientFeature
from fisherscope.features.metrics.frames import CoordinateMoments, Frame, LayerLengths, inverse_weight


class Kfac(FisherMetric):
    """d^T (B A (x) G)^-1 d with A and G as docs/metrics.md defines them (Martens & Grosse 2015; Grosse & Martens 2016).

    Each factor is damped by ``damping`` x its mean eigenvalue at the first fit. Streaming; one pass.

    Args:
        name: how blocks call it.
        centred: subtract the fit samples' mean gradient. A and G themselves are second moments either way.
        damping: relative, see above.
    """

    stages = 1
    growing = (0,)

    def __init__(self, name: str, *, centred: bool = True, damping: float = 1e-2) -> None:
        self.name = name
        self._centred = centred
        self._dampings = Dampings(damping)
        self._moments = CoordinateMoments()
        self._factors = FactorSums()
        self._frames: dict[str, Frame] = {}

    def collector(self, stage: int) -> Reduction:
        return Several([self._moments, self._factors])

    def finish(self, stage: int) -> None:
        speaking = self._moments.speaking(self._centred)
        factors = self._factors.factors(self.name)
        self._frames = {}
        for name in speaking:
            mean = self._moments.mean(name).cpu() if self._centred else None
            if name in factors:
                left, right = (
                    whitening(side, self._dampings.relative_to(side.diagonal(), f"{name}/{place}"))
                    for place, side in zip(("rows", "columns"), factors[name].sides, strict=True)
                )
                self._frames[name] = Frame(left, right, None if mean is None else left @ mean @ right.mT)
            else:
                variance = self._moments.variance(name, self._centred)
                weight = inverse_weight(variance, self._dampings.relative_to(variance, name))
                self._frames[name] = Frame(mean=mean, weight=weight)

    def features(self) -> tuple[GradientFeature, ...]:
        return (LayerLengths(self.name, self._frames),)

    def state(self) -> State:
        arrays = {**self._moments.state(), **self._factors.state(), **self._dampings.state()}
        return arrays if self._frames else {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._moments.restore(state)
        self._factors.restore(state)
        self._dampings.restore(state)
        self.finish(0)


class Ekfac(FisherMetric):
    """Diagonal in the eigenbasis of A (x) G, with the true second moments in it (George et al. 2018).

    Two passes: factors, then moments of the coordinates. Only the bases and the moments are kept; new samples
    update the moments.

    Args:
        name: how blocks call it.
        centred: subtract the mean coordinates; moments are then about them.
        damping: relative to the mean moment of the parameter tensor at the first fit.
    """

    stages = 2
    growing = (1,)

    def __init__(self, name: str, *, centred: bool = True, damping: float = 1e-2) -> None:
        self.name = name
        self._centred = centred
        self._dampings = Dampings(damping)
        self._factors = FactorSums()
        self._moments = CoordinateMoments()
        self._frames: dict[str, Frame] = {}

    def collector(self, stage: int) -> Reduction:
        return self._factors if stage == 0 else self._moments

    def finish(self, stage: int) -> None:
        if stage == 0:
            factors = self._factors.factors(self.name)
            bases = {name: [eigen(side)[1] for side in f.sides] for name, f in factors.items()}
            self._moments = CoordinateMoments({name: Frame(left, right) for name, (left, right) in bases.items()})
            return
        self._frames = {}
        for name in self._moments.speaking(self._centred):
            basis = self._moments.frames.get(name, Frame())
            variance = self._moments.variance(name, self._centred)
            self._frames[name] = Frame(
                basis.left,
                basis.right,
                self._moments.mean(name) if self._centred else None,
                inverse_weight(variance, self._dampings.relative_to(variance, name)),
            )

    def features(self) -> tuple[GradientFeature, ...]:
        return (LayerLengths(self.name, self._frames),)

    def state(self) -> State:
        if not self._frames:
            return {}
        arrays = {**self._moments.state(), **self._dampings.state()}
        for name, frame in self._moments.frames.items():
            arrays |= {f"left:{name}": _array(frame.left), f"right:{name}": _array(frame.right)}
        return arrays

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        left, right = part(state, "left:"), part(state, "right:")
        frames = {n: Frame(torch.from_numpy(left[n].copy()), torch.from_numpy(right[n].copy())) for n in left}
        self._moments = CoordinateMoments(frames)
        self._moments.restore(state)
        self._dampings.restore(state)
        self.finish(1)


def _array(tensor: Tensor | None) -> NDArray[Any]:
    assert tensor is not None
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
