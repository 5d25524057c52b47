"""A kernel density of each of a sample's statistics by itself, learnt from single samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector
from fisherscope.detectors.densities.base import Array
from fisherscope.detectors.vectors import member_vectors, varying_columns


class KernelDensities(Detector):
    """What reads a block (N, B, S) of statistics by their densities: normal kernels of Scott's (1992) bandwidth.

    Statistics that are constant over the fit samples are dropped.
    """

    min_fit = 2

    kept_: NDArray[np.intp]
    points_: Array
    bandwidths_: Array

    def _fit(self, table: FeatureTable) -> None:
        points = member_vectors(table, self.requires[0])
        self.kept_ = varying_columns(points, self.name, table.card.dtype)
        self.points_ = points[:, self.kept_]
        self.bandwidths_ = self.points_.std(0, ddof=1) * len(points) ** -0.2

    def log_densities(self, table: FeatureTable) -> Array:
        """Return the log density of every kept statistic of every sample, (N * B, kept)."""
        new = member_vectors(table, self.requires[0])[:, self.kept_]
        columns = []
        for j, width in enumerate(self.bandwidths_):
            z = (new[:, j, None] - self.points_[None, :, j]) / width
            normaliser = np.log(len(self.points_) * width * np.sqrt(2 * np.pi))
            columns.append(logsumexp(-0.5 * np.square(z), axis=1) - normaliser)
        return np.stack(columns, axis=1)
