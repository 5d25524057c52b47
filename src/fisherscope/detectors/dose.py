"""Density of states: how frequent are a sample's statistics (Morningstar et al. 2021)?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.densities.one_class import OneClassSvm
from fisherscope.detectors.kernel_densities import KernelDensities
from fisherscope.detectors.vectors import (
    group_means,
    member_vectors,
    varying_columns,
)


class DoseKde(KernelDensities):
    """score = -sum_j log q_j(t_j(x)), q_j a kernel density of statistic j (Morningstar et al., arXiv 2006.09273).

    A group's score is the mean over its samples.
    """

    name = "dose-kde"
    requires = ("statistics",)

    def _score(self, table: FeatureTable) -> Scores:
        return group_means(-self.log_densities(table).sum(1), table)


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
        self.kept_ = varying_columns(points, self.name, table.card.dtype)
        self._take(self._svm.fit(points[:, self.kept_], None))

    def _score(self, table: FeatureTable) -> Scores:
        return group_means(self._svm.score(member_vectors(table, "statistics")[:, self.kept_], self._learnt()), table)
