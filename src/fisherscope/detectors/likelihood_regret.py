"""Likelihood regret (Xiao et al. 2020)."""

from __future__ import annotations

import numpy as np

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.fixed import FixedScore


class LikelihoodRegret(FixedScore):
    """score = mean over the group of log p(x) under x's own best posterior minus that under the encoder's, in nats.

    Xiao, Yan & Amit 2020, arXiv 2003.02977, in the variant that optimises mean and variance of the posterior and not
    the encoder's weights.
    """

    name = "likelihood-regret"
    requires = ("regret",)

    def _score(self, table: FeatureTable) -> Scores:
        scores: Scores = table.block("regret").mean(1, dtype=np.float64)
        return scores
