"""The control: no model at all, only the mean and the covariance of the pixels."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from sklearn.covariance import ledoit_wolf

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.vectors import group_means, member_vectors

_LEAST_SHRINKAGE: Final = 1e-9
"""Ledoit and Wolf's is 0 where all fit samples are equally far from their mean, and then C may have no inverse."""


class PixelMahalanobis(Detector, Differentiable):
    """score = mean over the group of (x - m)^T C^-1 (x - m), C the Ledoit-Wolf covariance of the raw pixels.

    A gradient score that does not beat this one has not shown that the model knows anything. (Ledoit & Wolf 2004
    for the shrinkage, which keeps C invertible when there are fewer samples than pixels.)
    """

    name = "pixel-mahalanobis"
    requires = ("pixels",)
    min_fit = 10

    mean_: NDArray[np.float64]
    factor_: NDArray[np.float64]

    def _fit(self, table: FeatureTable) -> None:
        flat = member_vectors(table, "pixels")
        self.mean_ = flat.mean(0)
        centred = flat - self.mean_
        if not centred.any():
            raise DataError("all fit samples are the same; pixel-mahalanobis needs samples that differ")
        covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
        if shrinkage < _LEAST_SHRINKAGE:
            covariance = covariance + _LEAST_SHRINKAGE * covariance.trace() / len(covariance) * np.eye(len(covariance))
        self.factor_ = cholesky(covariance, lower=True)

    def _score(self, table: FeatureTable) -> Scores:
        white = solve_triangular(self.factor_, (member_vectors(table, "pixels") - self.mean_).T, lower=True)
        return group_means(np.square(white).sum(0), table)

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        pixels = table.block("pixels")
        deviation = member_vectors(table, "pixels") - self.mean_
        slope = 2 * cho_solve((self.factor_, True), deviation.T).T / pixels.shape[1]
        return {"pixels": slope.reshape(pixels.shape)}
