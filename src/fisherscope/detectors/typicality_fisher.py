"""Typicality test and score test, combined (Bergamin et al. 2022): the nearest prior art."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.conformal import ConformalCalibration
from fisherscope.detectors.layers import layer_values


class TypicalityFisher(Detector):
    """score = -2 (log p_T + log p_S), Fisher's method on two tests (Bergamin et al. 2022, arXiv 2203.01097).

    T is the typicality statistic |-(1/B) sum_b log p(x_b) - H| (Nalisnick et al. 2019), S Rao's score statistic
    (1/B) (sum_b s_b)^T F^-1 (sum_b s_b) with the diagonal of the Fisher matrix. Each p-value is one-sided, the share
    (1 + #{fit groups with at least that statistic}) / (n + 1). Two things are not the paper's: the diagonal carries
    the damping that every metric here has, and its samples are the fit groups that the p-values count as well, whose
    statistics are therefore somewhat too small beside those of new groups.

    Args:
        name: how tables call the detector.
        block: the score statistic of each layer; by default not centred, as E[s] = 0 under the model.
    """

    min_fit = 2

    entropy_: float
    typicality_: NDArray[np.float64]
    statistic_: NDArray[np.float64]

    def __init__(self, name: str = "typicality-fisher", block: str = "metric:diagonal-uncentred") -> None:
        self.name = name
        self.requires = ("log_p", block)

    def _fit(self, table: FeatureTable) -> None:
        self.entropy_ = -float(table.block("log_p").mean(dtype=np.float64))
        self.typicality_ = np.sort(self._typicality(table))
        self.statistic_ = np.sort(self._score_statistic(table))

    def _score(self, table: FeatureTable) -> Scores:
        p_typical = ConformalCalibration(self.typicality_).p_value(self._typicality(table))
        p_score = ConformalCalibration(self.statistic_).p_value(self._score_statistic(table))
        scores: Scores = -2 * (np.log(p_typical) + np.log(p_score))
        return scores

    def _typicality(self, table: FeatureTable) -> Scores:
        found: Scores = np.abs(-table.block("log_p").mean(1, dtype=np.float64) - float(self.entropy_))
        return found

    def _score_statistic(self, table: FeatureTable) -> Scores:
        found: Scores = layer_values(table, self.requires[1]).sum(1)
        return found
