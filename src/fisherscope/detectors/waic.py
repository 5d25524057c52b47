"""Watanabe-Akaike information criterion over an ensemble (Choi et al. 2018)."""

from __future__ import annotations

import numpy as np

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.fixed import FixedScore


class Waic(FixedScore):
    """score = Var_m[log p_m(x)] - E_m[log p_m(x)] over the members m of an ensemble (Choi et al., arXiv 1810.01392).

    The paper's WAIC with its sign turned, so that higher = more novel; the variance divides by the number of members.
    A group's score is the mean over its samples.
    """

    name = "waic"
    requires = ("ensemble_log_p",)

    def _score(self, table: FeatureTable) -> Scores:
        log_p = table.block("ensemble_log_p").astype(np.float64)
        scores: Scores = (log_p.var(2) - log_p.mean(2)).mean(1)
        return scores
