"""One detector for every density over the layers' numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.densities import LayerDensity, SmoothDensity, make_density
from fisherscope.detectors.densities.base import standardise
from fisherscope.detectors.layers import Array, KeptLayers
from fisherscope.detectors.profile import LayerStandardising


class Layerwise(KeptLayers, Detector, Differentiable, LayerStandardising):
    """The novelty that a :class:`LayerDensity` gives to v = log f_l of the layers that vary on the fit set.

    Args:
        density: its name, see :func:`make_density`, or one of your own.
        name: how tables call the detector.
        block: which numbers to read: f_l, or those of another metric.
    """

    def __init__(self, density: str | LayerDensity, name: str, block: str = "grad_norm") -> None:
        self.name = name
        self.requires = (block,)
        self._density = make_density(density) if isinstance(density, str) else density
        self.min_fit = self._density.min_fit
        self.differentiable = isinstance(self._density, SmoothDensity)

    def _fit(self, table: FeatureTable) -> None:
        block = self.requires[0]
        self._keep(table)
        sizes = table.card.settings.get("features", {}).get(block, {}).get("sizes")
        kept_sizes = None if sizes is None else np.asarray(sizes)[self.kept_]
        self._take(self._density.fit(self.log_norms(table), kept_sizes))

    def _score(self, table: FeatureTable) -> Scores:
        return self._density.score(self.log_norms(table), self._learnt())

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        assert isinstance(self._density, SmoothDensity)
        slope = self._density.gradient(self.log_norms(table), self._learnt())
        return {self.requires[0]: self._block_slope(slope, table)}

    def _standardised(self, table: FeatureTable) -> tuple[NDArray[np.intp], Array] | None:
        learnt = self._learnt()
        return (self.kept_, standardise(self.log_norms(table), learnt)) if {"mean", "std"} <= learnt.keys() else None
