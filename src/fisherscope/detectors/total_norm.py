"""The naive gradient score: the squared norm of the whole gradient."""

from __future__ import annotations

import numpy as np

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores


class TotalNorm(Detector):
    """score = sum_l f_l; the Fisher matrix is taken to be the identity (Dauncey et al. 2024, section 4.1).

    Nothing is learnt but the number of layers, so that a table of another model is noticed.
    """

    name = "total-norm"
    requires = ("grad_norm",)
    min_fit = 1

    n_layers_: int

    def _fit(self, table: FeatureTable) -> None:
        self.n_layers_ = table.block("grad_norm").shape[1]

    def _score(self, table: FeatureTable) -> Scores:
        scores: Scores = table.block("grad_norm").sum(1, dtype=np.float64)
        return scores
