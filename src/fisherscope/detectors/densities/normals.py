"""Normal log f_l: independent layers with one or two sides, and all layers together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.stats import norm
from sklearn.covariance import ledoit_wolf

from fisherscope.detectors.densities.base import Array, Learnt, SmoothDensity, mean_and_std, standardise


class UpperTail(SmoothDensity):
    """score = sum_l max(z_l, 0)^2: only gradients larger than usual are novel."""

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        return mean_and_std(v)

    def score(self, v: Array, learnt: Learnt) -> Array:
        scores: Array = np.square(np.maximum(standardise(v, learnt), 0)).sum(1)
        return scores

    def gradient(self, v: Array, learnt: Learnt) -> Array:
        slope: Array = 2 * np.maximum(standardise(v, learnt), 0) / learnt["std"]
        return slope


class FisherMethod(SmoothDensity):
    """score = -2 sum_l log p_l, p_l the layer's normal tail probability (Fisher 1932).

    Args:
        two_sided: p_l = 2 P(Z >= |z_l|); False: P(Z >= z_l).
    """

    def __init__(self, two_sided: bool) -> None:
        self._two_sided = two_sided

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        return mean_and_std(v)

    def score(self, v: Array, learnt: Learnt) -> Array:
        z = standardise(v, learnt)
        log_p = np.log(2) + norm.logsf(np.abs(z)) if self._two_sided else norm.logsf(z)
        scores: Array = -2 * log_p.sum(1)
        return scores

    def gradient(self, v: Array, learnt: Learnt) -> Array:
        z = standardise(v, learnt)
        tail = np.abs(z) if self._two_sided else z
        hazard = np.exp(norm.logpdf(tail) - norm.logsf(tail))
        slope: Array = 2 * hazard * (np.sign(z) if self._two_sided else 1.0) / learnt["std"]
        return slope


class LedoitWolf(SmoothDensity):
    """score = z^T C^-1 z, C the shrunk covariance of all layers together (Ledoit & Wolf 2004); two-sided."""

    min_fit = 10

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        learnt = mean_and_std(v)
        covariance, _ = ledoit_wolf(standardise(v, learnt), assume_centered=True)
        return {**learnt, "factor": cholesky(covariance, lower=True)}

    def score(self, v: Array, learnt: Learnt) -> Array:
        white = solve_triangular(learnt["factor"], standardise(v, learnt).T, lower=True)
        scores: Array = np.square(white).sum(0)
        return scores

    def gradient(self, v: Array, learnt: Learnt) -> Array:
        slope: Array = 2 * cho_solve((learnt["factor"], True), standardise(v, learnt).T).T / learnt["std"]
        return slope
