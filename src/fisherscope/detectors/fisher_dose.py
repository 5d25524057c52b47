"""Density of states of a model's own gradient: how frequent are a sample's layer profile and likelihood together?"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import SettingError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.densities.base import standardise
from fisherscope.detectors.densities.components import (
    MOST_MODES,
    components,
    fit_modes,
    layer_slope,
    modes_novelty,
    modes_slope,
    principal_axes,
)
from fisherscope.detectors.layers import Array, KeptLayers
from fisherscope.detectors.profile import LayerStandardising
from fisherscope.detectors.summary import CODES, KeptSummary

COMPONENTS: Final = 10


class FisherDose(KeptLayers, KeptSummary, Differentiable, LayerStandardising):
    """score = -log q(u_1, ..., u_k, a) - log r(a), a = (log p, log c, log d), q and r mixtures of normals.

    u are the first k principal components of the layers' log squared gradient norms (95 % of the variance, at most 10
    and a tenth of the fit groups), those of convolution kernels estimated from random projections, which costs less
    than a weight gradient; log p the mean over the group's members, c and d the lengths of an image's context code
    (else of the sample's Lempel-Ziv code) and of its predictive code; each mixture has one to four normals by BIC.
    Density of states (Morningstar et al. 2021) whose statistics are the model's own gradient; DoSE takes a family's
    latent norms and log-determinants, the paper a normal for each layer by itself. A novel sample may lie in the middle
    of every layer and of log p, and yet have a combination of them that no in-distribution sample has. The second term
    counts the summary a once more, which would drown among ten components.

    The code lengths are of the sample alone: they are what log p ought to follow (Serra et al. 2020), and where two
    codes disagree more or less than on good samples, the sample has another kind of structure. Samples that lack a
    code (floating numbers have none, texts no predictive one) are judged without it; the score's gradient holds them
    fixed.

    Args:
        name: how tables call it.
        block: which layers' numbers to read, (N, L): squared norms at a sketch's price, f_l itself (``grad_norm``), or
            those of another metric.
        codes: blocks of code lengths to look at, of :data:`~fisherscope.detectors.summary.CODES`.
        most_components: largest k.
        most_modes: most normals in either mixture.

    Raises:
        SettingError: no component or no normal.
    """

    min_fit = 20

    mean_: Array
    std_: Array
    axes_: Array
    weights_: Array
    centres_: Array
    precisions_: Array

    def __init__(
        self,
        name: str = "fisher-dose",
        block: str = "sketch_norm",
        codes: tuple[str, ...] = CODES,
        most_components: int = COMPONENTS,
        most_modes: int = MOST_MODES,
    ) -> None:
        if most_components < 1 or most_modes < 1:
            raise SettingError(
                f"{name} was given at most {most_components} components and {most_modes} normals; "
                "give at least one of each"
            )
        self.name = name
        self._most_components, self._most_modes = most_components, most_modes
        self.requires = (block, "log_p", *codes)

    def _fit(self, table: FeatureTable) -> None:
        self._keep(table)
        self._keep_summary(table, self._most_modes)
        self._take(principal_axes(self.log_norms(table), self._most_components))
        self._take(fit_modes(self._points(table), self._most_modes))

    def _points(self, table: FeatureTable) -> Array:
        """Return the statistics, (N, k + 1 to 3), log p at k."""
        return np.column_stack([components(self.log_norms(table), self._learnt()), self.summary(table)])

    def _score(self, table: FeatureTable) -> Scores:
        points, learnt = self._points(table), self._learnt()
        k = learnt["axes"].shape[1]
        return modes_novelty(points, learnt) + modes_novelty(points[:, k:], self._summary_modes())

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        points, learnt = self._points(table), self._learnt()
        k = learnt["axes"].shape[1]
        slope = modes_slope(points, learnt)
        log_p = slope[:, k] + modes_slope(points[:, k:], self._summary_modes())[:, 0]
        return {
            self.requires[0]: self._block_slope(layer_slope(slope[:, :k], learnt), table),
            "log_p": self._log_p_slope(log_p, table),
        }

    def _standardised(self, table: FeatureTable) -> tuple[NDArray[np.intp], Array] | None:
        return self.kept_, standardise(self.log_norms(table), self._learnt())
