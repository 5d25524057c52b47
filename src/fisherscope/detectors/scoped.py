"""Squared score against curvature, judged by its density (Barkley et al. 2025)."""

from __future__ import annotations

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.kernel_densities import KernelDensities
from fisherscope.detectors.vectors import group_means


class Scoped(KernelDensities):
    """score = max_t -log h_t(T_t(x)), h_t a normal kernel density of T = ||s||^2 / curvature at timestep t of two.

    Barkley et al., arXiv 2510.01456. The bandwidth is Scott's, and the paper's global correction of the trace's sign
    is left out: what its appendix corrects could not be established from public sources. A group's score is the mean
    over its samples.
    """

    name = "scoped"
    requires = ("score_curvature",)

    def _score(self, table: FeatureTable) -> Scores:
        return group_means((-self.log_densities(table)).max(1), table)
