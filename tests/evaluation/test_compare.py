import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.evaluation import (
    Bootstrap,
    PairScores,
    auroc,
    average,
    bootstrap_metrics,
    compare,
    compare_auroc,
    compare_detectors,
    evaluate_pair,
    resample_pair,
)


def correlated_scores(n, shift_a, shift_b, correlation, seed):
    rng = np.random.default_rng(seed)
    shared, own_a, own_b = rng.normal(size=(3, 2 * n))
    a, b = (np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own for own in (own_a, own_b))
    return (a[:n], a[n:] + shift_a), (b[:n], b[n:] + shift_b)


def delong_error(a, b):
    """Standard error of the difference of two paired AUROCs (DeLong et al. 1988)."""

    def components(inside, outside):
        wins = (outside[:, None] > inside[None, :]).astype(float)
        return wins.mean(axis=0), wins.mean(axis=1)

    (in_a, out_a), (in_b, out_b) = components(*a), components(*b)
    return np.sqrt((in_a - in_b).var(ddof=1) / len(in_a) + (out_a - out_b).var(ddof=1) / len(out_a))


def test_interval_agrees_with_delong():
    a, b = correlated_scores(400, 1.0, 0.7, 0.8, seed=0)
    result = compare_auroc(a, b, Bootstrap(seed=0, replicates=2000))
    assert result.difference.estimate == auroc(*a) - auroc(*b) == result.auroc_a - result.auroc_b
    width = result.difference.high - result.difference.low
    assert width == pytest.approx(2 * 1.96 * delong_error(a, b), rel=0.08)


def test_pairing_narrows_the_interval():
    a, b = correlated_scores(300, 1.0, 1.0, 0.9, seed=1)
    paired = compare_auroc(a, b, Bootstrap(seed=0)).difference
    rng = np.random.default_rng(0)
    shuffled = tuple(rng.permutation(side) for side in b)
    unpaired = compare_auroc(a, shuffled, Bootstrap(seed=0)).difference
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


def test_swapping_the_detectors_flips_the_sign():
    a, b = correlated_scores(100, 1.0, 0.5, 0.5, seed=2)
    ab, ba = compare_auroc(a, b, Bootstrap(seed=0)), compare_auroc(b, a, Bootstrap(seed=0))
    assert (ab.difference.low, ab.difference.high) == pytest.approx((-ba.difference.high, -ba.difference.low))
    assert ab.p_value == ba.p_value


def test_clear_difference_has_the_smallest_p_value_and_none_has_one():
    strong, weak = correlated_scores(300, 2.0, 0.0, 0.3, seed=3)
    assert compare_auroc(strong, weak, Bootstrap(seed=0)).p_value == pytest.approx(2 / 1001)
    assert compare_auroc(weak, weak, Bootstrap(seed=0)).p_value == 1.0


def test_p_values_of_equal_detectors_are_not_small_too_often():
    p = [
        compare_auroc(*correlated_scores(80, 1.0, 1.0, 0.5, seed=s), Bootstrap(seed=s, replicates=200)).p_value
        for s in range(200)
    ]
    assert np.mean(np.array(p) <= 0.1) <= 0.17  # binomial(200, .1) exceeds 34 once in 1,000 times
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.12)


def test_different_samples_are_refused():
    with pytest.raises(DataError, match="same samples"):
        compare_auroc(([0.0, 1.0], [2.0, 3.0]), ([0.0, 1.0], [2.0, 3.0, 4.0]), Bootstrap(seed=0))


def test_means_over_pairs_follow_the_replicates():
    rng = np.random.default_rng(0)
    pairs = []
    for shift in (0.5, 1.0):
        scores = {name: (rng.normal(size=40), rng.normal(size=50) + shift) for name in ("a", "b")}
        sides = [{name: s[i] for name, s in scores.items()} for i in (0, 1)]
        pairs.append(PairScores("in", f"out{shift}", 1, *sides))
    resampled = [resample_pair(pair, seed=2, replicates=300) for pair in pairs]
    for pair, one in zip(pairs, resampled, strict=True):
        for record in evaluate_pair(pair, seed=2, replicates=300):
            found = one.interval(record.detector)
            assert (found.estimate, found.low, found.high) == (record.auroc, record.auroc_low, record.auroc_high)
        assert compare([one], "a", "b") == compare_detectors(pair, "a", "b", seed=2, replicates=300)
    draws = [bootstrap_metrics(p.scores_in["a"], p.scores_out["a"], Bootstrap(2, 300))["auroc"] for p in pairs]
    mean = average(resampled, "a")
    assert mean.estimate == pytest.approx(np.mean([auroc(p.scores_in["a"], p.scores_out["a"]) for p in pairs]))
    assert (mean.low, mean.high) == pytest.approx(np.quantile(np.mean(draws, axis=0), [0.025, 0.975]))
    with pytest.raises(DataError, match="averaged over 0 pairs"):
        average([], "a")
