import numpy as np
import pytest
from scipy.stats import beta, ks_2samp

from fisherscope.core.errors import DataError, SettingError
from fisherscope.evaluation import check_calibration, false_alarm_interval


def p_value(calibration, score):
    return (1 + (calibration >= score).sum()) / (len(calibration) + 1)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1, 0.29])
@pytest.mark.parametrize("n", [99, 250, 999])
def test_rate_counts_conformal_p_values_at_most_the_level(n, level):
    rng = np.random.default_rng(n)
    # Rounded, so that calibration and test scores tie.
    calibration, test = rng.normal(size=n).round(1), rng.normal(size=400).round(1)
    expected = np.mean([p_value(calibration, s) <= level for s in test])
    check = check_calibration(calibration, test, level)
    assert check.rate == pytest.approx(expected, abs=1e-12)
    assert (check.level, check.n_calibration) == (level, n)
    assert check.ks_p == pytest.approx(ks_2samp(calibration, test).pvalue, abs=0.05)


@pytest.mark.parametrize(("n", "m", "level"), [(250, 250, 0.05), (999, 500, 0.01), (100, 50, 0.1)])
def test_interval_holds_for_simulated_counts(n, m, level):
    rng = np.random.default_rng(0)
    low, high = false_alarm_interval(n, m, level)
    counts = np.array([round(check_calibration(rng.random(n), rng.random(m), level).rate * m) for _ in range(600)])
    outside = np.mean((counts < low) | (counts > high))
    # At most 5 % by construction; 0.075 is exceeded once in 500 times at 600 trials.
    assert outside <= 0.075
    assert np.mean((counts <= low) | (counts >= high)) > 0.02, "the interval is wider than it need be"


def test_interval_is_that_of_beta_then_binomial_draws_and_wider_than_binomial():
    rng = np.random.default_rng(0)
    # k = floor(.05 * 201) = 10.
    counts = rng.binomial(2000, rng.beta(10, 191, size=200_000))
    low, high = false_alarm_interval(200, 2000, 0.05)
    assert (low, high) == pytest.approx(np.quantile(counts, [0.025, 0.975]), abs=2)
    assert high - low > 2 * (2 * 1.96 * np.sqrt(2000 * 0.05 * 0.95))


@pytest.mark.parametrize(("n", "level", "rank"), [(99, 0.29, 29), (99, 0.01, 1), (19, 0.05, 1)])
def test_rank_undoes_rounding(n, level, rank):
    # 0.29 * 100 = 28.999999999999996; the median of Beta(k, n + 1 - k) tells k from k - 1.
    low, _ = false_alarm_interval(n, 20_000, level, coverage=1e-9)
    assert low / 20_000 == pytest.approx(beta.median(rank, n + 1 - rank), abs=1e-3)


@pytest.mark.parametrize(("n", "level", "needed"), [(98, 0.01, 99), (18, 0.05, 19), (8, 0.1, 9)])
def test_too_few_calibration_groups_are_refused_with_the_number(n, level, needed):
    with pytest.raises(DataError, match=f"at least {needed} calibration groups to be counted, found {n}"):
        check_calibration(np.arange(float(n)), np.arange(5.0), level)


def test_level_out_of_range_is_refused():
    with pytest.raises(SettingError):
        false_alarm_interval(100, 100, 0.0)


def test_shifted_test_scores_are_noticed():
    rng = np.random.default_rng(1)
    check = check_calibration(rng.normal(size=300), rng.normal(0.8, size=300), 0.05)
    assert check.ks_p < 1e-6
    assert check.rate > check.high
