"""Likelihood ratio against a model of the background (Ren et al. 2019)."""

from __future__ import annotations

import numpy as np

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.fixed import FixedScore


class LikelihoodRatio(FixedScore):
    """score = log p_background(x) - log p(x), the background model trained on perturbed samples (Ren et al. 2019).

    The paper's ratio (arXiv 1906.02845) with its sign turned, so that higher = more novel. A group's score is
    the mean over its samples.
    """

    name = "likelihood-ratio"
    requires = ("log_p", "background_log_p")

    def _score(self, table: FeatureTable) -> Scores:
        background, log_p = (table.block(b).astype(np.float64) for b in ("background_log_p", "log_p"))
        scores: Scores = (background - log_p).mean(1)
        return scores
