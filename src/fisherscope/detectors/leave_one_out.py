"""Damping by leave-one-out Gaussian likelihood, in closed form from one eigendecomposition."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RELATIVE_DAMPINGS: Final = np.logspace(-4, 1, 41)
"""Dampings that are tried, relative to the mean eigenvalue of the directions that vary."""


def leave_one_out_distance(distance: Array, n: int, *, centred: bool = True) -> Array:
    """Return each fit sample's squared Mahalanobis distance to the fit set WITHOUT it.

    With A = scatter/n + lambda I over all n samples and r = (s - m)^T A^-1 (s - m), leaving s out gives
    (n/(n-1)) * n r/(n-1-r): exact for a refit that is still divided by n and keeps lambda (Sherman-Morrison, as
    the scatter loses n/(n-1) (s - m)(s - m)^T and s moves away from the mean by n/(n-1)). Without centring it
    is n r/(n-r).

    Args:
        distance: r, any shape, 0 <= r < n - 1 (centred) or n.
        n: number of fit samples.
        centred: whether m is the samples' mean, or 0.
    """
    shift = n / (n - 1) if centred else 1.0
    left_out: Array = shift**2 * distance / _gap(distance, n, centred)
    return left_out


def leave_one_out_likelihood(squares: Array, eigenvalues: Array, damping: float, *, centred: bool = True) -> float:
    """Return the mean over samples of log N(s_i; m_-i, A_-i), the other samples' mean and damped covariance.

    Args:
        squares: squared coordinates of the centred samples along the eigenvectors of scatter/n, (n, k).
        eigenvalues: of scatter/n, (k,).
        damping: lambda > 0.
        centred: whether the mean was estimated too.
    """
    n, k = squares.shape
    distance = squares @ (1 / (eigenvalues + damping))
    log_det = np.log(eigenvalues + damping).sum() + np.log(_gap(distance, n, centred))
    left_out = leave_one_out_distance(distance, n, centred=centred)
    return float(-0.5 * (left_out + log_det + k * np.log(2 * np.pi)).mean())


def choose_damping(deviations: Array, *, centred: bool = True) -> float:
    """Return the damping lambda of the highest leave-one-out likelihood.

    Only the coordinates that vary count: a bucket that no parameter fell into says nothing of the others.

    Args:
        deviations: samples minus their mean (or minus 0), (n, k); at least one entry is not 0.
        centred: whether the mean was estimated too.
    """
    varying = deviations[:, deviations.any(0)]
    eigenvalues, rotation = np.linalg.eigh(varying.T @ varying / len(varying))
    eigenvalues = np.maximum(eigenvalues, 0)
    squares = (varying @ rotation) ** 2
    dampings = RELATIVE_DAMPINGS * eigenvalues.mean()
    likelihoods = [leave_one_out_likelihood(squares, eigenvalues, d, centred=centred) for d in dampings]
    return float(dampings[int(np.argmax(likelihoods))])


def _gap(distance: Array, n: int, centred: bool) -> Array:
    # det A_-i / det A; above 0 but for rounding
    gap: Array = np.maximum(1 - distance / (n - 1 if centred else n), np.finfo(np.float64).eps)
    return gap
