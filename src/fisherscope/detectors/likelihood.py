"""The score that the paradox is about: minus the log-likelihood."""

from __future__ import annotations

import numpy as np

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.fixed import FixedScore


class Likelihood(FixedScore, Differentiable):
    """score = -(1/B) sum_b log p(x_b), in nats (Bishop 1994; shown to fail by Nalisnick et al. 2019)."""

    name = "likelihood"
    requires = ("log_p",)

    def _score(self, table: FeatureTable) -> Scores:
        scores: Scores = -table.block("log_p").mean(1, dtype=np.float64)
        return scores

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        shape = table.block("log_p").shape
        return {"log_p": np.full(shape, -1 / shape[1])}
