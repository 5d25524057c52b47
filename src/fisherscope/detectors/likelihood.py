"""The score that the paradox is about: minus the log-likelihood."""

from __future__ import annotations

import numpy as np

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable


class Likelihood(Detector, Differentiable):
    """score = -(1/B) sum_b log p(x_b), in nats (Bishop 1994; shown to fail by Nalisnick et al. 2019).

    ``mean_`` is the fit set's mean, for the record; it does not enter the score.
    """

    name = "likelihood"
    requires = ("log_p",)
    min_fit = 1

    mean_: float

    def _fit(self, table: FeatureTable) -> None:
        self.mean_ = float(table.block("log_p").mean(dtype=np.float64))

    def _score(self, table: FeatureTable) -> Scores:
        scores: Scores = -table.block("log_p").mean(1, dtype=np.float64)
        return scores

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        shape = table.block("log_p").shape
        return {"log_p": np.full(shape, -1 / shape[1])}
