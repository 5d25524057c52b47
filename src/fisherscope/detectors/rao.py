"""Rao's score statistic in sketch space: a damped, centred Mahalanobis distance of the whole parameter gradient."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.layers import relative_round_off
from fisherscope.detectors.leave_one_out import Array, choose_damping
from fisherscope.detectors.updatable import Updatable

MIN_FIT: Final = 10


class RaoSketch(Updatable, Differentiable):
    """score = d^T (B (C + lambda I))^-1 d with d = sum_b s_b - B m (Rao 1948; docs/metrics.md).

    s_b are the members' sketches, m and C mean and covariance (divided by the count) of the fit samples' sketches,
    and lambda the damping of the highest leave-one-out Gaussian likelihood. A quadratic form is one-sided by
    nature: only a gradient far from its usual mean is novel. The damping keeps it defined with fewer fit samples
    than K.

    Args:
        name: how tables call it.
        block: which sketch to read, (N, B, K).
        centred: False: m = 0 and C the second moments, as if the model were at its optimum.
    """

    min_fit = MIN_FIT

    count_: int
    mean_: Array
    covariance_: Array
    damping_: float

    def __init__(self, name: str = "rao-sketch", block: str = "sketch", centred: bool = True) -> None:
        self.name = name
        self.requires = (block,)
        self._centred = centred

    def _fit(self, table: FeatureTable) -> None:
        flat = _members(self._sketches(table))
        _require_variation(flat, table, self.name)
        self.count_, self.mean_, self.covariance_ = moments(flat, self._centred)
        self.damping_ = choose_damping(flat - self.mean_, centred=self._centred)

    def _update(self, table: FeatureTable) -> None:
        new = moments(_members(self._sketches(table)), self._centred)
        old = (int(self.count_), self.mean_, self.covariance_)
        self.count_, self.mean_, self.covariance_ = merge_moments(old, new)

    def _sketches(self, table: FeatureTable) -> Array:
        return table.block(self.requires[0]).astype(np.float64)

    def _score(self, table: FeatureTable) -> Scores:
        return rao_statistic(self._sketches(table), self.mean_, self.covariance_, float(self.damping_))

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        slope = rao_slope(self._sketches(table), self.mean_, self.covariance_, float(self.damping_))
        return {self.requires[0]: slope}


class RaoEqualised(RaoSketch):
    """:class:`RaoSketch` of the layers' sketches, scaled to equal mean squared size before they are added up.

    Which layers carry the raw gradient depends on how the model is parametrised (one bias can hold 40 % of the
    squared norm); after scaling every layer has one vote.

    Args:
        name: how tables call it.
        block: which sketches to read, (N, B, K, L).
    """

    scale_: Array

    def __init__(self, name: str = "rao-sketch-equalised", block: str = "layer_sketch") -> None:
        super().__init__(name, block)

    def _fit(self, table: FeatureTable) -> None:
        layers = table.block(self.requires[0])
        _require_variation(layers.reshape(-1, *layers.shape[2:]), table, self.name)
        size = np.square(layers - layers.mean((0, 1), dtype=np.float64)).sum(2).mean((0, 1))
        self.scale_ = np.divide(1.0, np.sqrt(size), out=np.zeros_like(size), where=_varies(size))
        super()._fit(table)

    def _sketches(self, table: FeatureTable) -> Array:
        sketches: Array = table.block(self.requires[0]) @ self.scale_
        return sketches

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        return {block: slope[..., None] * self.scale_ for block, slope in super()._cotangent(table).items()}


class RaoLayers(Updatable, Differentiable):
    """score = sum_l Q_l / e_l, Q_l the statistic of :class:`RaoSketch` of one layer's sketch alone.

    Args:
        name: how tables call it.
        block: which sketches to read, (N, B, K, L).
        normalised: divide by the layer's expectation e_l = tr((C_l + lambda_l I)^-1 C_l); False: e_l = 1.
    """

    min_fit = MIN_FIT

    kept_: NDArray[np.intp]
    count_: int
    mean_: Array
    covariance_: Array
    damping_: Array
    expectation_: Array

    def __init__(self, name: str = "rao-layers", block: str = "layer_sketch", normalised: bool = False) -> None:
        self.name = name
        self.requires = (block,)
        self._normalised = normalised

    def _fit(self, table: FeatureTable) -> None:
        layers = table.block(self.requires[0])
        _require_variation(layers.reshape(-1, *layers.shape[2:]), table, self.name)
        size = layers.var((0, 1), dtype=np.float64).sum(0)
        self.kept_ = np.flatnonzero(_varies(size))
        flat = [_members(layers[..., place]) for place in self.kept_]
        self.count_ = len(flat[0])
        _, self.mean_, self.covariance_ = map(np.stack, zip(*map(moments, flat), strict=True))
        self.damping_ = np.asarray([choose_damping(f - m) for f, m in zip(flat, self.mean_, strict=True)])
        self.expectation_ = self._expectations()

    def _update(self, table: FeatureTable) -> None:
        layers, n = table.block(self.requires[0]), int(self.count_)
        merged = [
            merge_moments((n, self.mean_[i], self.covariance_[i]), moments(_members(layers[..., place])))
            for i, place in enumerate(self.kept_)
        ]
        self.count_ = merged[0][0]
        _, self.mean_, self.covariance_ = map(np.stack, zip(*merged, strict=True))
        self.expectation_ = self._expectations()

    def _expectations(self) -> Array:
        if not self._normalised:
            return np.ones(len(self.kept_))
        eigenvalues = np.linalg.eigvalsh(self.covariance_)
        expected: Array = (eigenvalues / (eigenvalues + self.damping_[:, None])).sum(1)
        return expected

    def _score(self, table: FeatureTable) -> Scores:
        layers = table.block(self.requires[0])
        total = np.zeros(len(table))
        for i, place in enumerate(self.kept_):
            layer = layers[..., place].astype(np.float64)
            total += (
                rao_statistic(layer, self.mean_[i], self.covariance_[i], float(self.damping_[i]))
                / (self.expectation_[i])
            )
        return total

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        layers = table.block(self.requires[0]).astype(np.float64)
        slope = np.zeros_like(layers)
        for i, place in enumerate(self.kept_):
            mean, covariance, damping = self.mean_[i], self.covariance_[i], float(self.damping_[i])
            slope[..., place] = rao_slope(layers[..., place], mean, covariance, damping) / self.expectation_[i]
        return {self.requires[0]: slope}


def rao_statistic(sketches: Array, mean: Array, covariance: Array, damping: float) -> Scores:
    """Return d^T (B (C + lambda I))^-1 d of every group.

    Args:
        sketches: (N, B, K), of the members of each group.
        mean: of single samples, (K,).
        covariance: C of single samples, (K, K).
        damping: lambda.
    """
    deviation, solved = _solved(sketches, mean, covariance, damping)
    scores: Scores = np.einsum("nk,nk->n", deviation, solved) / sketches.shape[1]
    return scores


def rao_slope(sketches: Array, mean: Array, covariance: Array, damping: float) -> Array:
    """Return the gradient of :func:`rao_statistic` with respect to the members' sketches, (N, B, K); same arguments."""
    members = sketches.shape[1]
    _, solved = _solved(sketches, mean, covariance, damping)
    return np.repeat(2 * solved[:, None] / members, members, axis=1)


def _solved(sketches: Array, mean: Array, covariance: Array, damping: float) -> tuple[Array, Array]:
    """Return d and (C + lambda I)^-1 d of every group, (N, K) each."""
    deviation = sketches.sum(1) - sketches.shape[1] * mean
    factor = cho_factor(covariance + damping * np.eye(len(mean)), lower=True)
    return deviation, cho_solve(factor, deviation.T).T


def moments(samples: Array, centred: bool = True) -> tuple[int, Array, Array]:
    """Return count, mean (0 unless ``centred``) and covariance, divided by the count, of samples (n, k)."""
    mean = samples.mean(0) if centred else np.zeros(samples.shape[1])
    deviation = samples - mean
    return len(samples), mean, deviation.T @ deviation / len(samples)


def merge_moments(first: tuple[int, Array, Array], second: tuple[int, Array, Array]) -> tuple[int, Array, Array]:
    """Return the moments of two sets of samples together (Chan, Golub & LeVeque 1983)."""
    (n, mean, covariance), (m, other_mean, other) = first, second
    shift = other_mean - mean
    between = np.outer(shift, shift) * (n * m / (n + m))
    return n + m, mean + shift * (m / (n + m)), (n * covariance + m * other + between) / (n + m)


def _members(sketches: NDArray[np.floating]) -> Array:
    """Return the sketches of groups (N, B, K) as those of single samples, (N * B, K), float64."""
    flat: Array = sketches.reshape(-1, sketches.shape[2]).astype(np.float64)
    return flat


def _varies(size: Array) -> NDArray[np.bool_]:
    # Round-off of layers that are zero by symmetry lies far below this share of the largest layer's size.
    varies: NDArray[np.bool_] = size > 1e-12 * size.max()
    return varies


def _require_variation(samples: NDArray[np.floating], table: FeatureTable, name: str) -> None:
    if np.abs(samples - samples[0]).max() <= relative_round_off(table.card.dtype) * np.abs(samples).max():
        raise DataError(
            f"{name} was given fit samples whose gradients are all the same; "
            "give different samples, or check that log_prob depends on the parameters"
        )
