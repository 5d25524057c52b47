"""Local intrinsic dimension beside the likelihood (Kamkari et al. 2024)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.conformal import ConformalCalibration
from fisherscope.detectors.densities.base import Array
from fisherscope.detectors.vectors import group_means, member_vectors

NEIGHBOURS: Final = 100
SHARE: Final = 1e-3


class LocalIntrinsicDimension(Detector):
    """score = -log min(p_L, p_D): is the likelihood or the local dimension lower than in the fit set?

    Kamkari et al. 2024 (arXiv 2403.18910). The dimension at x is the number of singular values of the flow's
    generator above a threshold, which is chosen such that the fit samples' mean dimension equals that of local PCA
    of their pixels. The paper's dual threshold calls a sample in-distribution if both likelihood and dimension exceed
    a threshold each; here both thresholds are fit-set quantiles of one level, which makes one score of them: p_L and
    p_D are the shares (1 + #{fit samples at most as large}) / (n + 1), which beyond all fit samples go on to fall, or
    a guard might be unable to alarm. A group's score is the mean over its samples.
    """

    name = "local-intrinsic-dimension"
    requires = ("log_p", "jacobian_spectrum", "pixels")
    min_fit = 10

    threshold_: float
    surprisals_: NDArray[np.float64]
    codimensions_: NDArray[np.float64]

    def _fit(self, table: FeatureTable) -> None:
        wanted = local_pca_dimension(member_vectors(table, "pixels"))
        self.threshold_ = matching_threshold(member_vectors(table, "jacobian_spectrum"), wanted)
        self.surprisals_ = np.sort(-_log_p(table))
        self.codimensions_ = np.sort(-self._dimension(table))  # up to a constant

    def _score(self, table: FeatureTable) -> Scores:
        p_likelihood = ConformalCalibration(self.surprisals_).continued_p_value(-_log_p(table))
        p_dimension = ConformalCalibration(self.codimensions_).continued_p_value(-self._dimension(table))
        return group_means(-np.log(np.minimum(p_likelihood, p_dimension)), table)

    def _dimension(self, table: FeatureTable) -> Array:
        above = member_vectors(table, "jacobian_spectrum") > self.threshold_
        dimension: Array = above.sum(1).astype(np.float64)
        return dimension


def _log_p(table: FeatureTable) -> Array:
    values: Array = table.block("log_p").astype(np.float64).ravel()
    return values


def local_pca_dimension(points: Array) -> float:
    """Return the mean over points (n, D) of the dimension of their neighbourhood.

    Local PCA of the 100 nearest points, fewer where there are not so many; a direction counts if its variance is
    more than a thousandth of the largest (Fukunaga & Olsen 1971, with Kamkari et al.'s settings).

    Raises:
        DataError: all points are the same.
    """
    from sklearn.neighbors import NearestNeighbors

    if not np.ptp(points, axis=0).any():
        raise DataError("all fit samples are the same; local-intrinsic-dimension needs samples that differ")
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(points) - 1)).fit(points)
    return float(np.mean([_pca_dimension(points[near]) for near in search.kneighbors(return_distance=False)]))


def _pca_dimension(points: Array) -> int:
    centred = points - points.mean(0)
    variances = np.linalg.eigvalsh(centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred)
    return int((variances > SHARE * variances[-1]).sum())


def matching_threshold(spectra: Array, dimension: float) -> float:
    """Return the value that, on average over rows of spectra (n, D), ``dimension`` entries a row exceed."""
    ranked = np.sort(spectra, axis=None)[::-1]
    count = min(max(round(dimension * len(spectra)), 1), len(ranked) - 1)
    return float((ranked[count - 1] + ranked[count]) / 2)
