"""Density of states of a model's own gradient: how frequent are a sample's layer profile and likelihood together?"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.densities.base import standardise
from fisherscope.detectors.densities.components import (
    components,
    fit_modes,
    layer_slope,
    modes_novelty,
    modes_slope,
    principal_axes,
)
from fisherscope.detectors.layers import Array, KeptLayers, relative_round_off
from fisherscope.detectors.profile import LayerStandardising

COMPONENTS: Final = 10


class FisherDose(KeptLayers, Detector, Differentiable, LayerStandardising):
    """score = -log q(u_1, ..., u_k, log p), q a mixture of one to four normals, their number by BIC.

    u are the first k principal components of log f_l over the layers (95 % of the variance, at most 10 and a tenth of
    the fit groups) and log p is the mean over the group's members. Density of states (Morningstar et al. 2021) whose
    statistics are the model's own: DoSE takes a family's latent norms and log-determinants, the paper a normal for
    each layer by itself. A novel sample may lie in the middle of every layer and of log p, and yet have a combination
    of them that no in-distribution sample has.

    Args:
        name: how tables call it.
        block: which layers' numbers to read, (N, L): f_l, or those of another metric.
    """

    min_fit = 20

    mean_: Array
    std_: Array
    axes_: Array
    entropy_: float
    spread_: float
    weights_: Array
    centres_: Array
    precisions_: Array

    def __init__(self, name: str = "fisher-dose", block: str = "grad_norm") -> None:
        self.name = name
        self.requires = (block, "log_p")

    def _fit(self, table: FeatureTable) -> None:
        self._keep(table)
        log_p = table.block("log_p").mean(1, dtype=np.float64)
        self.entropy_, spread = -float(log_p.mean()), float(log_p.std(ddof=1))
        # A log p that varies by round-off alone says nothing: in units of its size it stays near 0 for all samples.
        size = float(np.abs(log_p).max())
        self.spread_ = spread if spread > relative_round_off(table.card.dtype) * size else max(size, 1.0)
        self._take(principal_axes(self.log_norms(table), COMPONENTS))
        self._take(fit_modes(self._points(table)))

    def _points(self, table: FeatureTable) -> Array:
        """Return the statistics, (N, k + 1)."""
        log_p = table.block("log_p").mean(1, dtype=np.float64)
        return np.column_stack(
            [components(self.log_norms(table), self._learnt()), (log_p + self.entropy_) / self.spread_]
        )

    def _score(self, table: FeatureTable) -> Scores:
        return modes_novelty(self._points(table), self._learnt())

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        members, learnt = table.card.group_size, self._learnt()
        slope = modes_slope(self._points(table), learnt)
        return {
            self.requires[0]: self._block_slope(layer_slope(slope[:, :-1], learnt), table),
            "log_p": np.repeat(slope[:, -1:] / (self.spread_ * members), members, axis=1),
        }

    def _standardised(self, table: FeatureTable) -> tuple[NDArray[np.intp], Array] | None:
        return self.kept_, standardise(self.log_norms(table), self._learnt())
