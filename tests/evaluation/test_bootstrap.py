import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisherscope.core.errors import DataError, SettingError
from fisherscope.evaluation import METRICS, Bootstrap, bootstrap_metrics, metric_intervals
from fisherscope.evaluation.bootstrap import resampled_metrics


def normal_scores(n_in, n_out, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n_in), rng.normal(shift, size=n_out)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_resampled_metrics_equal_sklearn_on_repeated_samples(n_in, n_out, levels, seed):
    rng = np.random.default_rng(seed)
    inside, outside = rng.integers(levels, size=n_in) / 7, rng.integers(levels, size=n_out) / 7
    counts_in, counts_out = rng.integers(0, 4, size=(5, n_in)), rng.integers(0, 4, size=(5, n_out))
    counts_in[:, 0] += 1
    counts_out[:, -1] += 1
    fast = resampled_metrics(inside, outside, counts_in, counts_out)
    for name, metric in METRICS.items():
        slow = [metric(np.repeat(inside, a), np.repeat(outside, b)) for a, b in zip(counts_in, counts_out, strict=True)]
        np.testing.assert_allclose(fast[name], slow, rtol=0, atol=1e-12, err_msg=name)


def test_estimates_are_the_metrics_and_lie_inside():
    inside, outside = normal_scores(200, 150)
    for name, interval in metric_intervals(inside, outside, Bootstrap(seed=1)).items():
        assert interval.estimate == METRICS[name](inside, outside)
        assert interval.low < interval.estimate < interval.high


def test_width_agrees_with_the_hanley_mcneil_standard_error():
    inside, outside = normal_scores(400, 300)
    interval = metric_intervals(inside, outside, Bootstrap(seed=0, replicates=2000))["auroc"]
    wins = (outside[:, None] > inside[None, :]).astype(float)
    # DeLong (1988): the variance of the U statistic from its two structural components.
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / 300 + wins.mean(axis=0).var(ddof=1) / 400)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_same_seed_same_interval_and_other_seed_another():
    inside, outside = normal_scores(50, 50)
    first, again, other = (metric_intervals(inside, outside, Bootstrap(seed=s))["auroc"] for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_chunks_do_not_lose_replicates():
    inside, outside = normal_scores(700, 700)
    values = bootstrap_metrics(inside, outside, Bootstrap(seed=0, replicates=501))
    assert {v.shape for v in values.values()} == {(501,)}
    assert values["auroc"].std() > 0


def test_detectors_share_resamples():
    inside, outside = normal_scores(60, 40)
    plain = bootstrap_metrics(inside, outside, Bootstrap(seed=0))
    monotone = bootstrap_metrics(np.exp(inside), np.exp(outside), Bootstrap(seed=0))
    np.testing.assert_array_equal(plain["auroc"], monotone["auroc"])


def test_clusters_widen_the_interval_of_repeated_samples():
    # 30 distinct tracks, each frame stored 20 times: the information is that of 30 samples.
    inside, tracks = normal_scores(300, 30)
    outside, labels = np.repeat(tracks, 20), np.repeat(np.arange(30), 20)
    naive = metric_intervals(inside, outside, Bootstrap(seed=0))["auroc"]
    clustered = metric_intervals(inside, outside, Bootstrap(seed=0, clusters_out=labels))["auroc"]
    honest = metric_intervals(inside, tracks, Bootstrap(seed=0))["auroc"]
    assert clustered.high - clustered.low == pytest.approx(honest.high - honest.low, rel=0.1)
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_labels_may_be_strings_in_any_order():
    inside, outside = normal_scores(40, 6)
    shuffled = [3, 0, 5, 1, 4, 2]
    labels = np.array(["a", "a", "b", "b", "c", "c"])
    one = metric_intervals(inside, outside, Bootstrap(seed=0, clusters_out=labels))
    two = metric_intervals(inside, outside[shuffled], Bootstrap(seed=0, clusters_out=list(labels[shuffled])))
    for name, interval in one.items():
        assert (interval.low, interval.high) == pytest.approx((two[name].low, two[name].high), abs=1e-12)


def test_separated_scores_have_a_point_interval():
    interval = metric_intervals(np.arange(5.0), np.arange(5.0) + 9, Bootstrap(seed=0))["auroc"]
    assert (interval.low, interval.estimate, interval.high) == (1, 1, 1)


def test_coverage_of_the_auroc_interval():
    # Binormal scores one deviation apart: AUROC = Phi(1 / sqrt 2) = 0.76025.
    covered = 0
    for trial in range(200):
        inside, outside = normal_scores(100, 100, seed=trial)
        interval = metric_intervals(inside, outside, Bootstrap(seed=trial, replicates=200))["auroc"]
        covered += interval.low <= 0.7602499 <= interval.high
    assert 179 <= covered <= 199  # binomial(200, .95) leaves this range once in 1,000 times


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"clusters_in": ["a"] * 4}, "at least two"), ({"clusters_out": ["a", "b"]}, "2 cluster labels")],
)
def test_unusable_clusters_are_refused(kwargs, message):
    with pytest.raises(DataError, match=message):
        bootstrap_metrics(np.arange(4.0), np.arange(3.0), Bootstrap(seed=0, **kwargs))


def test_single_sample_is_refused():
    with pytest.raises(DataError, match="at least two"):
        bootstrap_metrics([1.0], [1.0, 2.0], Bootstrap(seed=0))


@pytest.mark.parametrize("kwargs", [{"replicates": 39}, {"replicates": 199, "coverage": 0.99}, {"coverage": 1.0}])
def test_settings_out_of_range_are_refused(kwargs):
    with pytest.raises(SettingError):
        Bootstrap(seed=0, **kwargs)
