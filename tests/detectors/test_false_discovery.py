"""Benjamini-Hochberg against its definition, and the promise it makes on conformal p-values."""

import numpy as np
import pytest

from fisherscope.core.errors import DataError, SettingError
from fisherscope.detectors import ConformalCalibration, adjusted_p_values, benjamini_hochberg


def test_the_definition():
    """Reject the k smallest, k the largest with p_(k) <= k fdr / m."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = np.ceil(rng.uniform(0, 1, 20) ** 2 * 50) / 50  # with ties
        for fdr in (0.05, 0.1, 0.3):
            below = np.flatnonzero(np.sort(p) <= fdr * np.arange(1, 21) / 20 * (1 + 1e-12))
            bound = np.sort(p)[below[-1]] if len(below) else 0
            np.testing.assert_array_equal(benjamini_hochberg(p, fdr), p <= bound)


def test_an_adjusted_value_is_the_least_rate_of_discovery():
    p = np.asarray([0.01, 0.04, 0.03, 0.9])
    np.testing.assert_allclose(adjusted_p_values(p), [0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.9], rtol=1e-12)
    for rate in adjusted_p_values(p)[:3]:
        assert benjamini_hochberg(p, rate).sum() > benjamini_hochberg(p, rate * 0.999).sum()


def test_the_false_discovery_rate_is_held_on_conformal_p_values():
    """500 lists of 80 in-distribution and 20 novel groups, each with a calibration set of its own."""
    rng, shares, power = np.random.default_rng(2), [], []
    for _ in range(500):
        calibration = ConformalCalibration.from_scores(rng.normal(size=500))
        p = calibration.p_value(np.concatenate([rng.normal(size=80), rng.normal(4, 1, 20)]))
        found = benjamini_hochberg(p, 0.2)
        shares.append(found[:80].sum() / max(1, found.sum()))
        power.append(found[80:].mean())
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) < 0.2 * 0.8 + 3 * error  # fdr times the share of in-distribution groups
    assert np.mean(shares) > 0.2 * 0.8 - 0.03 and np.mean(power) > 0.9  # and not by never discovering anything


def test_refusals():
    for wrong in ([], [0.0, 0.5], [0.5, 1.5], [[0.5]], [np.nan]):
        with pytest.raises(DataError, match="above 0 and at most 1"):
            adjusted_p_values(np.asarray(wrong))
    for wrong in (0, 1, -0.1):
        with pytest.raises(SettingError, match="between 0 and 1"):
            benjamini_hochberg(np.asarray([0.5]), wrong)
