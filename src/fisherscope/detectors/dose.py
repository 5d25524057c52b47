"""Density of states: how frequent are a sample's statistics (Morningstar et al. 2021)?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.densities.base import Array
from fisherscope.detectors.densities.one_class import OneClassSvm
from fisherscope.detectors.vectors import (
    group_means,
    kernel_log_densities,
    member_vectors,
    scott_bandwidths,
    varying_columns,
)


class DoseKde(Detector):
    """score = -sum_j log q_j(t_j(x)), q_j a kernel density of statistic j (Morningstar et al., arXiv 2006.09273).

    Normal kernels of Scott's bandwidth. Constant statistics are dropped. Fitted on single samples; a group's score is
    the mean over them.
    """

    name = "dose-kde"
    requires = ("statistics",)
    min_fit = 2

    kept_: NDArray[np.intp]
    points_: Array
    bandwidths_: Array

    def _fit(self, table: FeatureTable) -> None:
        points = member_vectors(table, "statistics")
        self.kept_ = varying_columns(points, self.name)
        self.points_ = points[:, self.kept_]
        self.bandwidths_ = scott_bandwidths(self.points_)

    def _score(self, table: FeatureTable) -> Scores:
        new = member_vectors(table, "statistics")[:, self.kept_]
        return group_means(-kernel_log_densities(new, self.points_, self.bandwidths_).sum(1), table)


class DoseSvm(Detector):
    """score = -decision function of a one-class SVM on the standardised statistics (Morningstar et al. 2021).

    Normal kernel of width 1 / (S var), nu = 0.1. Fitted on single samples; a group's score is the mean over them.
    """

    name = "dose-svm"
    requires = ("statistics",)
    min_fit = OneClassSvm.min_fit

    kept_: NDArray[np.intp]

    def __init__(self) -> None:
        self._svm = OneClassSvm()

    def _fit(self, table: FeatureTable) -> None:
        points = member_vectors(table, "statistics")
        self.kept_ = varying_columns(points, self.name)
        self._take(self._svm.fit(points[:, self.kept_], None))

    def _score(self, table: FeatureTable) -> Scores:
        return group_means(self._svm.score(member_vectors(table, "statistics")[:, self.kept_], self._learnt()), table)
