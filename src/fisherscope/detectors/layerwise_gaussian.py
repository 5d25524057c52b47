"""The paper's detector: layer-wise gradient norms, independent normals on the log scale."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.layers import Array, KeptLayers
from fisherscope.detectors.profile import LayerStandardising
from fisherscope.detectors.updatable import Updatable

_LOG_2_PI: Final = math.log(2 * math.pi)


class LayerwiseGaussian(KeptLayers, Updatable, Differentiable, LayerStandardising):
    """score = - sum_l log N(log f_l; m_l, d_l) (Dauncey et al. 2024, section 4.2).

    Layers whose f_l has no variance on the fit set, or is zero by symmetry, are dropped; ``kept_`` holds the column
    numbers of the others. Values of f_l below the arithmetic's resolution count as that resolution, so that a layer
    that a sample does not reach at all (f_l = 0) gives a large but finite score.

    Args:
        name: how tables call it.
        block: which numbers to read: f_l, or those of another metric.
    """

    name = "layerwise-gaussian"

    count_: int
    mean_: Array
    std_: Array

    def __init__(self, name: str = "layerwise-gaussian", block: str = "grad_norm") -> None:
        self.name = name
        self.requires = (block,)

    def _fit(self, table: FeatureTable) -> None:
        self._keep(table)
        logs = self.log_norms(table)
        self.count_, self.mean_, self.std_ = len(logs), logs.mean(0), logs.std(0, ddof=1)

    def _update(self, table: FeatureTable) -> None:
        logs, n = self.log_norms(table), int(self.count_)
        self.count_ = n + len(logs)
        shift = logs.mean(0) - self.mean_
        squares = (n - 1) * self.std_**2 + np.square(logs - logs.mean(0)).sum(0)
        squares += shift**2 * n * len(logs) / self.count_  # Chan, Golub & LeVeque 1983
        self.mean_ = self.mean_ + shift * len(logs) / self.count_
        self.std_ = np.sqrt(squares / (self.count_ - 1))

    def _score(self, table: FeatureTable) -> Scores:
        z = (self.log_norms(table) - self.mean_) / self.std_
        scores: Scores = (0.5 * z**2 + np.log(self.std_) + 0.5 * _LOG_2_PI).sum(1)
        return scores

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        return {self.requires[0]: self._block_slope((self.log_norms(table) - self.mean_) / self.std_**2, table)}

    def _standardised(self, table: FeatureTable) -> tuple[NDArray[np.intp], Array]:
        return self.kept_, (self.log_norms(table) - self.mean_) / self.std_
