"""The typicality test of Nalisnick et al. (2019)."""

from __future__ import annotations

import numpy as np

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable


class Typicality(Detector, Differentiable):
    """score = |-(1/B) sum_b log p(x_b) - H|, H the mean of -log p over the fit samples (arXiv 1906.02994, eq. 3)."""

    name = "typicality"
    requires = ("log_p",)
    min_fit = 1

    entropy_: float

    def _fit(self, table: FeatureTable) -> None:
        self.entropy_ = -float(table.block("log_p").mean(dtype=np.float64))

    def _score(self, table: FeatureTable) -> Scores:
        scores: Scores = np.abs(-table.block("log_p").mean(1, dtype=np.float64) - self.entropy_)
        return scores

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        log_p = table.block("log_p")
        side = np.sign(-log_p.mean(1, keepdims=True, dtype=np.float64) - self.entropy_)
        return {"log_p": np.repeat(-side / log_p.shape[1], log_p.shape[1], axis=1)}
