"""Densities of arbitrary form on the few principal components of log f in which there are enough samples for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax

from fisherscope.detectors.densities.base import Array, Learnt, SmoothDensity, mean_and_std, standardise

EXPLAINED: Final = 0.95
MOST_COMPONENTS: Final = 16
SAMPLES_PER_COMPONENT: Final = 10
BANDWIDTHS: Final = np.logspace(-1, 1, 41)
MOST_MODES: Final = 4

_CHUNK_ELEMENTS: Final = 1 << 20  # distances in flight


def principal_axes(v: Array, most: int = MOST_COMPONENTS) -> dict[str, Array]:
    """Return ``mean``, ``std`` and ``axes`` (L, k): standardised v times ``axes`` has k uncorrelated unit variances.

    k explains 95 % of the variance, but is at most ``most`` and a tenth of the samples.
    """
    learnt = mean_and_std(v)
    _, singular, rotation = np.linalg.svd(standardise(v, learnt), full_matrices=False)
    explained = np.cumsum(singular**2) / np.sum(singular**2)
    wanted = int(np.searchsorted(explained, EXPLAINED)) + 1
    k = max(1, min(wanted, most, len(v) // SAMPLES_PER_COMPONENT))
    return {**learnt, "axes": rotation[:k].T * (np.sqrt(len(v) - 1) / singular[:k])}


def components(v: Array, learnt: Learnt) -> Array:
    """Return the principal components of v, (N, k)."""
    found: Array = standardise(v, learnt) @ learnt["axes"]
    return found


def fit_modes(points: Array, most: int = MOST_MODES) -> dict[str, Array]:
    """Return the mixture of one to ``most`` normals of the lowest BIC (McLachlan & Peel 2000) of points (N, k).

    Never more of them than there are different points, and at least ten points a dimension for each.
    """
    from sklearn.mixture import GaussianMixture

    different = len(np.unique(points, axis=0))
    allowed = max(1, min(most, different, len(points) // (SAMPLES_PER_COMPONENT * points.shape[1])))
    sizes = range(1, allowed + 1)
    fits = [GaussianMixture(m, reg_covar=1e-3, max_iter=1000, random_state=0).fit(points) for m in sizes]
    best = min(fits, key=lambda mixture: mixture.bic(points))
    return {"weights": best.weights_, "centres": best.means_, "precisions": best.precisions_cholesky_}


def modes_novelty(points: Array, modes: Learnt) -> Array:
    """Return -log density of points (N, k) under what :func:`fit_modes` returned, (N,)."""
    novelty: Array = -logsumexp(mode_terms(points, modes["weights"], modes["centres"], modes["precisions"]), axis=0)
    return novelty


def modes_slope(points: Array, modes: Learnt) -> Array:
    """Return the gradient of :func:`modes_novelty` with respect to the points, (N, k)."""
    weights, centres, factors = (modes[key] for key in ("weights", "centres", "precisions"))
    shares = softmax(mode_terms(points, weights, centres, factors), axis=0)
    parts = zip(shares, centres, factors, strict=True)
    slope: Array = sum((s[:, None] * ((points - c) @ f @ f.T) for s, c, f in parts), np.zeros_like(points))
    return slope


def mode_terms(points: Array, weights: Array, centres: Array, factors: Array) -> Array:
    """Return the log of each normal's share of a mixture's density, (modes, N).

    Args:
        points: (N, k).
        weights: of the normals, (modes,).
        centres: (modes, k).
        factors: Cholesky factors of the precisions, (modes, k, k).
    """
    terms = []
    for weight, centre, factor in zip(weights, centres, factors, strict=True):
        log_det = np.log(np.diag(factor)).sum()
        squares = np.square((points - centre) @ factor).sum(1)
        terms.append(np.log(weight) + log_det - 0.5 * (squares + points.shape[1] * np.log(2 * np.pi)))
    return np.stack(terms)


class Mixture(SmoothDensity):
    """score = -log density of the mixture of :func:`fit_modes` on the principal components."""

    min_fit = 20

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        learnt = principal_axes(v)
        return {**learnt, **fit_modes(components(v, learnt))}

    def score(self, v: Array, learnt: Learnt) -> Array:
        return modes_novelty(components(v, learnt), learnt)

    def gradient(self, v: Array, learnt: Learnt) -> Array:
        return layer_slope(modes_slope(components(v, learnt), learnt), learnt)


class KernelDensity(SmoothDensity):
    """score = -log of a normal kernel density, its bandwidth by leave-one-out likelihood (Habbema et al. 1974)."""

    min_fit = 20

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        learnt = principal_axes(v)
        points = components(v, learnt)
        kernels = np.empty((len(BANDWIDTHS), len(points)))
        for rows, squares in _square_distances(points, points):
            squares[np.arange(len(squares)), np.arange(len(points))[rows]] = np.inf  # without the sample itself
            kernels[:, rows] = [_log_kernels(squares, h, points.shape[1]) for h in BANDWIDTHS]
        likelihoods = kernels.mean(1)
        return {**learnt, "points": points, "bandwidth": np.asarray(BANDWIDTHS[int(np.argmax(likelihoods))])}

    def score(self, v: Array, learnt: Learnt) -> Array:
        points, known, bandwidth = components(v, learnt), learnt["points"], float(learnt["bandwidth"])
        scores = np.empty(len(points))
        for rows, squares in _square_distances(points, known):
            scores[rows] = np.log(len(known)) - _log_kernels(squares, bandwidth, points.shape[1])
        return scores

    def gradient(self, v: Array, learnt: Learnt) -> Array:
        points, known, variance = components(v, learnt), learnt["points"], float(learnt["bandwidth"]) ** 2
        means = np.empty_like(points)
        for rows, squares in _square_distances(points, known):
            means[rows] = softmax(-0.5 * squares / variance, axis=1) @ known
        return layer_slope((points - means) / variance, learnt)


def layer_slope(slope: Array, learnt: Learnt) -> Array:
    """Return d score / d v for d score / d components, (N, k)."""
    layers: Array = slope @ learnt["axes"].T / learnt["std"]
    return layers


def _square_distances(first: Array, second: Array) -> Iterator[tuple[slice, Array]]:
    """Yield the squared distances (rows, M) of some rows of the first points (N, k) to the second (M, k), all in turn.

    In pieces of bounded size: N times M is more than memory holds where a guard judges a large set.
    """
    step = max(1, _CHUNK_ELEMENTS // len(second))
    for start in range(0, len(first), step):
        rows = slice(start, start + step)
        yield rows, cdist(first[rows], second, "sqeuclidean")


def _log_kernels(squares: Array, bandwidth: float, k: int) -> Array:
    constant = k * (np.log(bandwidth) + 0.5 * np.log(2 * np.pi))
    sums: Array = logsumexp(-0.5 * squares / bandwidth**2, axis=1) - constant
    return sums
