"""Scaled chi-square f_l: a sum of squares is one, were the entries of the gradient normal and alike."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaincc, gammaln, polygamma

from fisherscope.core.errors import DataError
from fisherscope.detectors.densities.base import Array, Learnt, SmoothDensity

_NEWTON_STEPS: Final = 20
_SMALLEST_SPREAD: Final = 1e-12
_UNDERFLOW: Final = 1e-290


class ChiSquare(SmoothDensity):
    """f_l ~ c_l chi2(k_l), layers independent.

    The score is -sum_l of the log density of v = log f_l, which is p(e^v) e^v (two-sided), or -sum_l log P(F >= f_l).

    Args:
        by_size: k_l = n_l and c_l = mean(f_l) / n_l (Dauncey et al. 2024); False: both by maximum likelihood.
        two_sided: which of the two scores.
    """

    def __init__(self, by_size: bool, two_sided: bool) -> None:
        self._by_size = by_size
        self._two_sided = two_sided

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        log_mean = np.log(np.exp(v - v.max(0)).mean(0)) + v.max(0)
        if not self._by_size:
            freedom = 2 * gamma_shape(log_mean - v.mean(0))
        elif sizes is None:
            raise DataError("the table does not say how many parameters each layer has; extract it again")
        else:
            freedom = sizes.astype(np.float64)
        return {"freedom": freedom, "log_scale": log_mean - np.log(freedom)}

    def score(self, v: Array, learnt: Learnt) -> Array:
        shape, u, log_density = _log_density(v, learnt)
        terms = log_density if self._two_sided else _log_upper(shape, u, log_density)
        scores: Array = -terms.sum(1)
        return scores

    def gradient(self, v: Array, learnt: Learnt) -> Array:
        shape, u, log_density = _log_density(v, learnt)
        # one-sided: the density of log f over its upper tail
        hazard: Array = np.exp(log_density - _log_upper(shape, u, log_density))
        return u - shape if self._two_sided else hazard


def gamma_shape(spread: Array) -> Array:
    """Return the a that solves log a - digamma(a) = spread, the maximum-likelihood shape of a gamma distribution.

    Args:
        spread: log mean f - mean log f, above 0.

    Source: Minka 2002, "Estimating a Gamma distribution": his start, then Newton on 1/a.
    """
    s = np.maximum(spread, _SMALLEST_SPREAD)
    a: Array = (3 - s + np.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)
    for _ in range(_NEWTON_STEPS):
        a = 1 / (1 / a + (np.log(a) - digamma(a) - s) / (a**2 * (1 / a - polygamma(1, a))))
    return a


def _log_density(v: Array, learnt: Learnt) -> tuple[Array, Array, Array]:
    """Return shape = k_l / 2, u = f_l / (2 c_l) and the log density of log f_l."""
    shape = learnt["freedom"] / 2
    log_u = v - learnt["log_scale"] - np.log(2)
    # the density of log f adds v, so it has u^shape where that of f has u^(shape - 1)
    return shape, np.exp(log_u), shape * log_u - np.exp(log_u) - gammaln(shape)


def _log_upper(shape: Array, u: Array, log_density: Array) -> Array:
    # log Q(shape, u). Where Q underflows u is far above shape: the first term of its continued fraction will do.
    upper = gammaincc(np.broadcast_to(shape, u.shape), u)
    far = log_density - np.log(np.maximum(u + 1 - shape, 1))
    log_upper: Array = np.where(upper > _UNDERFLOW, np.log(np.maximum(upper, _UNDERFLOW)), far)
    return log_upper
