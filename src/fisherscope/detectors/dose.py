"""Density of states: how frequent are a sample's statistics (Morningstar et al. 2021)?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.densities.base import Array
from fisherscope.detectors.densities.one_class import OneClassSvm


def varying_columns(points: Array, name: str) -> NDArray[np.intp]:
    """Return the columns of points (n, S) whose spread is more than round-off; none is a :class:`DataError`."""
    size = np.abs(points).max(0)
    kept = np.flatnonzero(np.ptp(points, axis=0) > 1e-9 * size)
    if not len(kept):
        raise DataError(f"no statistic varies over the {len(points)} fit samples of {name}; give different samples")
    return kept


def members(table: FeatureTable, block: str) -> Array:
    """Return the rows of a block of vectors one below the other, (N * B, S), float64."""
    values = table.block(block)
    flat: Array = values.reshape(-1, values.shape[-1]).astype(np.float64)
    return flat


def group_means(values: Array, table: FeatureTable) -> Scores:
    """Return the mean over each group's members of values (N * B,), shape (N,)."""
    means: Scores = values.reshape(len(table), -1).mean(1)
    return means


class DoseKde(Detector):
    """score = -sum_j log q_j(t_j(x)), q_j a kernel density of statistic j (Morningstar et al., arXiv 2006.09273).

    Normal kernels; the bandwidth is Scott's rule, std * n^(-1/5), as the paper's own choice is not stated. Constant
    statistics are dropped. Fitted on single samples; a group's score is the mean over them.
    """

    name = "dose-kde"
    requires = ("statistics",)
    min_fit = 2

    kept_: NDArray[np.intp]
    points_: Array
    bandwidth_: Array

    def _fit(self, table: FeatureTable) -> None:
        points = members(table, "statistics")
        self.kept_ = varying_columns(points, self.name)
        self.points_ = points[:, self.kept_]
        self.bandwidth_ = self.points_.std(0, ddof=1) * len(points) ** -0.2

    def _score(self, table: FeatureTable) -> Scores:
        new = members(table, "statistics")[:, self.kept_]
        densities = np.stack([self._log_density(new[:, j], j) for j in range(new.shape[1])])
        return group_means(-densities.sum(0), table)

    def _log_density(self, new: Array, j: int) -> Array:
        width = self.bandwidth_[j]
        z = (new[:, None] - self.points_[None, :, j]) / width
        size = len(self.points_) * width * np.sqrt(2 * np.pi)
        density: Array = logsumexp(-0.5 * np.square(z), axis=1) - np.log(size)
        return density


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
        points = members(table, "statistics")
        self.kept_ = varying_columns(points, self.name)
        for key, value in self._svm.fit(points[:, self.kept_], None).items():
            setattr(self, f"{key}_", value)

    def _score(self, table: FeatureTable) -> Scores:
        learnt = {key.removesuffix("_"): value for key, value in self.state().items()}
        return group_means(self._svm.score(members(table, "statistics")[:, self.kept_], learnt), table)
