"""One-class learners on standardised log f; what they learn is stored as plain arrays, never pickled."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.detectors.densities.base import Array, LayerDensity, Learnt, SmoothDensity, mean_and_std, standardise

NU: Final = 0.1
N_TREES: Final = 200


class OneClassSvm(SmoothDensity):
    """score = -decision function of a one-class SVM with a normal kernel, nu = 0.1 (Schoelkopf et al. 2001).

    Stored: support vectors, their coefficients, offset and kernel width.
    """

    min_fit = 10

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        from sklearn.svm import OneClassSVM

        learnt = mean_and_std(v)
        z = standardise(v, learnt)
        gamma = 1 / (z.shape[1] * z.var())
        svm = OneClassSVM(nu=NU, gamma=gamma).fit(z)
        return {
            **learnt,
            "vectors": svm.support_vectors_,
            "coefficients": svm.dual_coef_[0],
            "offset": np.asarray(svm.intercept_[0]),
            "gamma": np.asarray(gamma),
        }

    def score(self, v: Array, learnt: Learnt) -> Array:
        scores: Array = -(self._kernel(standardise(v, learnt), learnt).sum(1) + learnt["offset"])
        return scores

    def gradient(self, v: Array, learnt: Learnt) -> Array:
        z = standardise(v, learnt)
        kernel = self._kernel(z, learnt)
        slope: Array = 2 * learnt["gamma"] * (kernel.sum(1)[:, None] * z - kernel @ learnt["vectors"]) / learnt["std"]
        return slope

    @staticmethod
    def _kernel(z: Array, learnt: Learnt) -> Array:
        """Return the kernel between z (N, L) and the support vectors, times their coefficients."""
        vectors = learnt["vectors"]
        squares = np.square(z).sum(1)[:, None] - 2 * z @ vectors.T + np.square(vectors).sum(1)
        kernel: Array = np.exp(-learnt["gamma"] * np.maximum(squares, 0)) * learnt["coefficients"]
        return kernel


class Forest(LayerDensity):
    """score = 2^(-mean path length / c) of an isolation forest of 200 trees, seed 0 (Liu, Ting & Zhou 2008).

    Stored: the trees, node by node; ``path`` is the length with which a leaf counts.
    """

    min_fit = 10

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        from sklearn.ensemble import IsolationForest

        learnt = mean_and_std(v)
        forest = IsolationForest(n_estimators=N_TREES, random_state=0).fit(standardise(v, learnt))
        trees = [estimator.tree_ for estimator in forest.estimators_]
        nodes = max(tree.node_count for tree in trees)

        def stacked(attribute: str) -> NDArray[np.generic]:
            return np.stack([_padded(getattr(tree, attribute), nodes) for tree in trees])

        paths = [_path_lengths(t.children_left, t.children_right, t.n_node_samples) for t in trees]

        return {
            **learnt,
            "left": stacked("children_left"),
            "right": stacked("children_right"),
            "feature": stacked("feature"),
            "threshold": stacked("threshold"),
            "path": np.stack([_padded(path, nodes) for path in paths]),
            "expected": mean_path_length(np.asarray([forest.max_samples_]))[0],
        }

    def score(self, v: Array, learnt: Learnt) -> Array:
        # The trees were grown on single precision: a threshold lies between two such numbers.
        z = standardise(v, learnt).astype(np.float32)
        rows, trees = np.arange(len(z))[:, None], np.arange(len(learnt["left"]))
        node = np.zeros((len(z), len(trees)), dtype=np.intp)
        while True:
            left = learnt["left"][trees, node]
            inner = left >= 0
            if not inner.any():
                break
            goes_left = z[rows, np.maximum(learnt["feature"][trees, node], 0)] <= learnt["threshold"][trees, node]
            node = np.where(inner, np.where(goes_left, left, learnt["right"][trees, node]), node)
        scores: Array = 2.0 ** (-learnt["path"][trees, node].mean(1) / learnt["expected"])
        return scores


def mean_path_length(n: NDArray[np.intp]) -> Array:
    """Return c(n), the mean depth of an unsuccessful search in a binary tree of n nodes (Liu et al. 2008, eq. 1)."""
    m = np.maximum(n, 3).astype(np.float64)
    length = 2 * (np.log(m - 1) + np.euler_gamma) - 2 * (m - 1) / m
    found: Array = np.select([n <= 1, n == 2], [0.0, 1.0], length)
    return found


def _path_lengths(left: NDArray[np.intp], right: NDArray[np.intp], n_samples: NDArray[np.intp]) -> Array:
    depth = np.zeros(len(left))
    for node in np.flatnonzero(left >= 0):  # children come after their parent
        depth[[left[node], right[node]]] = depth[node] + 1
    return depth + mean_path_length(n_samples)


def _padded(values: NDArray[np.generic], length: int) -> NDArray[np.generic]:
    padded = np.full(length, -1, dtype=values.dtype)
    padded[: len(values)] = values
    return padded
