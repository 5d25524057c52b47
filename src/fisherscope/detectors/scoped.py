"""Squared score against curvature, judged by its density (Barkley et al. 2025)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.densities.base import Array
from fisherscope.detectors.vectors import (
    group_means,
    kernel_log_densities,
    member_vectors,
    scott_bandwidths,
    varying_columns,
)


class Scoped(Detector):
    """score = max_t -log h_t(T_t(x)), h_t a normal kernel density of T = ||s||^2 / curvature at timestep t of two.

    Barkley et al., arXiv 2510.01456. The bandwidth is Scott's, and the paper's global correction of the trace's sign
    is left out: what its appendix corrects could not be established from public sources. A group's score is the mean
    over its samples.
    """

    name = "scoped"
    requires = ("score_curvature",)
    min_fit = 2

    kept_: NDArray[np.intp]
    points_: Array
    bandwidths_: Array

    def _fit(self, table: FeatureTable) -> None:
        points = member_vectors(table, "score_curvature")
        self.kept_ = varying_columns(points, self.name)
        self.points_ = points[:, self.kept_]
        self.bandwidths_ = scott_bandwidths(self.points_)

    def _score(self, table: FeatureTable) -> Scores:
        new = member_vectors(table, "score_curvature")[:, self.kept_]
        return group_means((-kernel_log_densities(new, self.points_, self.bandwidths_)).max(1), table)
