"""The closed forms against refits without each sample, one after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fisherscope.detectors.leave_one_out import (
    RELATIVE_DAMPINGS,
    choose_damping,
    leave_one_out_distance,
    leave_one_out_likelihood,
)


def refit(samples, i, damping, centred):
    """Mean and damped scatter of the others; the scatter is still divided by n."""
    others = np.delete(samples, i, 0)
    mean = others.mean(0) if centred else np.zeros(samples.shape[1])
    scatter = (others - mean).T @ (others - mean)
    return mean, scatter / len(samples) + damping * np.eye(samples.shape[1])


def coordinates(samples, centred):
    deviations = samples - samples.mean(0) if centred else samples
    eigenvalues, rotation = np.linalg.eigh(deviations.T @ deviations / len(samples))
    return (deviations @ rotation) ** 2, np.maximum(eigenvalues, 0)


@given(n=st.integers(3, 12), k=st.integers(1, 20), centred=st.booleans(), log_damping=st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_distance_is_that_of_a_refit(n, k, centred, log_damping):
    samples = np.random.default_rng(n * 100 + k).normal(size=(n, k)) + 1
    damping = 10**log_damping
    squares, eigenvalues = coordinates(samples, centred)
    found = leave_one_out_distance(squares @ (1 / (eigenvalues + damping)), n, centred=centred)
    for i in range(n):
        mean, matrix = refit(samples, i, damping, centred)
        d = samples[i] - mean
        np.testing.assert_allclose(found[i], d @ np.linalg.solve(matrix, d), rtol=1e-8)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("n", "k"), [(9, 4), (6, 15)])
def test_likelihood_is_that_of_refits(n, k, centred):
    samples = np.random.default_rng(0).normal(size=(n, k)) * np.linspace(0.3, 3, k)
    squares, eigenvalues = coordinates(samples, centred)
    found = leave_one_out_likelihood(squares, eigenvalues, 0.3, centred=centred)
    each = []
    for i in range(n):
        mean, matrix = refit(samples, i, 0.3, centred)
        each.append(stats.multivariate_normal.logpdf(samples[i], mean, matrix))
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-10)


def test_the_chosen_damping_has_the_highest_held_out_likelihood():
    rng = np.random.default_rng(0)
    scale = np.r_[5 * np.ones(3), 0.5 * np.ones(40)]
    fit, new = rng.normal(size=(30, 43)) * scale, rng.normal(size=(2000, 43)) * scale
    mean = fit.mean(0)
    covariance = np.cov(fit.T, bias=True)
    grid = RELATIVE_DAMPINGS * np.trace(covariance) / 43
    held_out = [stats.multivariate_normal.logpdf(new, mean, covariance + d * np.eye(43)).mean() for d in grid]
    chosen = choose_damping(fit - mean)
    place = int(np.argmin(np.abs(grid - chosen)))
    assert held_out[place] > max(held_out) - 1.0 and held_out[place] > min(held_out[0], held_out[-1]) + 10


def test_empty_buckets_do_not_change_the_damping():
    fit = np.random.default_rng(0).normal(size=(40, 6))
    fit -= fit.mean(0)
    padded = np.concatenate([fit, np.zeros((40, 50))], axis=1)
    assert choose_damping(padded) == pytest.approx(choose_damping(fit), rel=1e-12)
