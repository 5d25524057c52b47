"""One detector for every density over the layers' numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.densities import LayerDensity, SmoothDensity, make_density
from fisherscope.detectors.densities.base import Learnt, standardise
from fisherscope.detectors.layers import Array, informative_layers, layer_values, log_slope, log_values, spread_to_block
from fisherscope.detectors.profile import LayerStandardising


class Layerwise(Detector, Differentiable, LayerStandardising):
    """The novelty that a :class:`LayerDensity` gives to v = log f_l of the layers that vary on the fit set.

    Args:
        density: its name, see :func:`make_density`, or one of your own.
        name: how tables call the detector.
        block: which numbers to read: f_l, or those of another metric.
    """

    kept_: NDArray[np.intp]
    floor_: float

    def __init__(self, density: str | LayerDensity, name: str, block: str = "grad_norm") -> None:
        self.name = name
        self.requires = (block,)
        self._density = make_density(density) if isinstance(density, str) else density
        self.min_fit = self._density.min_fit
        self.differentiable = isinstance(self._density, SmoothDensity)

    def _fit(self, table: FeatureTable) -> None:
        block = self.requires[0]
        self.kept_, self.floor_ = informative_layers(layer_values(table, block), table.card.dtype)
        sizes = table.card.settings.get("features", {}).get(block, {}).get("sizes")
        kept_sizes = None if sizes is None else np.asarray(sizes)[self.kept_]
        for key, value in self._density.fit(self._logs(table), kept_sizes).items():
            setattr(self, f"{key}_", value)

    def _logs(self, table: FeatureTable) -> Array:
        return log_values(layer_values(table, self.requires[0]), self.floor_)[:, self.kept_]

    def _learnt(self) -> Learnt:
        return {k.removesuffix("_"): v for k, v in self.state().items() if k not in ("kept_", "floor_")}

    def _score(self, table: FeatureTable) -> Scores:
        return self._density.score(self._logs(table), self._learnt())

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        assert isinstance(self._density, SmoothDensity)
        block = self.requires[0]
        values = layer_values(table, block)
        slope = np.zeros_like(values)
        slope[:, self.kept_] = self._density.gradient(self._logs(table), self._learnt())
        return {block: spread_to_block(slope * log_slope(values, self.floor_), table, block)}

    def _standardised(self, table: FeatureTable) -> tuple[NDArray[np.intp], Array] | None:
        learnt = self._learnt()
        return (self.kept_, standardise(self._logs(table), learnt)) if {"mean", "std"} <= learnt.keys() else None
