"""A mixture of normals, its size and form chosen by held-out likelihood: the density of two diffusion rivals."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.densities.base import Array, Learnt, mean_and_std, standardise
from fisherscope.detectors.densities.components import mode_terms
from fisherscope.detectors.vectors import group_means, member_vectors, varying_columns

_COMPONENTS: Final = (1, 2, 4, 8, 16, 32)
_FORMS: Final = ("full", "tied", "diag", "spherical")
_FOLDS: Final = 3
_SAMPLES_PER_COMPONENT: Final = 5
"""For each dimension: with fewer a component describes single samples."""


class VectorMixture(Detector):
    """score = -log density of a sample's vector under a Gaussian mixture of the fit samples' standardised vectors.

    ``msma`` reads ``score_norms`` (Mahmood et al. 2021, arXiv 2010.13132), ``diffpath-6d`` reads ``path_statistics``
    (Heng et al. 2024, arXiv 2405.11881). Both choose the mixture by cross-validated likelihood, the latter among 50
    and 100 components for 50,000 samples; here among as many as the fit samples allow. Constant entries are dropped.
    A group's score is the mean over its samples.

    Args:
        name: how tables call it.
        block: the vectors.
    """

    min_fit = 20

    kept_: NDArray[np.intp]

    def __init__(self, name: str, block: str) -> None:
        self.name = name
        self.requires = (block,)

    def _fit(self, table: FeatureTable) -> None:
        points = member_vectors(table, self.requires[0])
        self.kept_ = varying_columns(points, self.name, table.card.dtype)
        self._take(fit_mixture(points[:, self.kept_]))

    def _score(self, table: FeatureTable) -> Scores:
        points = member_vectors(table, self.requires[0])[:, self.kept_]
        return group_means(-mixture_log_density(points, self._learnt()), table)


def fit_mixture(points: Array) -> dict[str, Array]:
    """Return the mixture of standardised points (n, S) with the best cross-validated log-likelihood.

    Number of components (as many as the samples allow) and form of the covariances are chosen by 3 folds; k-means
    starts it, seed 0.
    """
    learnt = mean_and_std(points)
    z = standardise(points, learnt)
    best = max(_candidates(z.shape), key=lambda choice: _held_out(z, choice))
    mixture = _fitted(z, best)
    factors = _full_factors(mixture.precisions_cholesky_, best[1], mixture.means_.shape)
    return {**learnt, "weights": mixture.weights_, "centres": mixture.means_, "factors": factors}


def mixture_log_density(points: Array, learnt: Learnt) -> Array:
    """Return the log density of the standardised points (m, S) under what :func:`fit_mixture` returned, (m,)."""
    terms = mode_terms(standardise(points, learnt), learnt["weights"], learnt["centres"], learnt["factors"])
    found: Array = logsumexp(terms, axis=0)
    return found


def _candidates(shape: tuple[int, ...]) -> list[tuple[int, str]]:
    n, dims = shape
    most = max(1, n // (_SAMPLES_PER_COMPONENT * dims))
    return [(k, form) for k in _COMPONENTS if k <= most for form in _FORMS]


def _fitted(z: Array, choice: tuple[int, str]) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        # A candidate that has not converged after 200 iterations competes as it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(choice[0], covariance_type=choice[1], reg_covar=1e-3, max_iter=200, random_state=0).fit(
            z
        )


def _held_out(z: Array, choice: tuple[int, str]) -> float:
    fold = np.arange(len(z)) % _FOLDS
    return float(np.mean([_fitted(z[fold != i], choice).score(z[fold == i]) for i in range(_FOLDS)]))


def _full_factors(factors: Array, form: str, shape: tuple[int, int]) -> Array:
    """Return the Cholesky factors of the precisions of any form as (K, S, S)."""
    k, dims = shape
    if form == "tied":
        return np.broadcast_to(factors, (k, dims, dims)).copy()
    if form == "full":
        return factors
    diagonal = factors if form == "diag" else factors[:, None]
    full: Array = diagonal[:, :, None] * np.eye(dims)
    return full
