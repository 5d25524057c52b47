"""Split-conformal p-values: by hand, against their guarantee, and at the edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisherscope.core.errors import DataError, SettingError
from fisherscope.detectors.conformal import ConformalCalibration, cluster_bound, groups_needed


def test_p_values_by_hand():
    calibration = ConformalCalibration.from_scores(np.array([3.0, 1.0, 2.0, 2.0]))
    np.testing.assert_allclose(calibration.p_value(np.array([0.0, 2.0, 2.5, 3.0, 4.0])), [1.0, 0.8, 0.4, 0.4, 0.2])


def test_beyond_all_calibration_scores_the_continued_p_value_falls_strictly():
    calibration = ConformalCalibration.from_scores(np.array([3.0, 1.0, 2.0, 2.0]))
    inside = np.array([-1e300, 0.0, 2.0, 2.5, 3.0])
    np.testing.assert_array_equal(calibration.continued_p_value(inside), calibration.p_value(inside))
    beyond = np.array([3.0 + 1e-4, 4.0, 5.0, 1e9, 1e300])
    np.testing.assert_allclose(calibration.continued_p_value(beyond), 0.2 / (beyond - 2), rtol=1e-12)
    np.testing.assert_allclose(calibration.continued_p_value(beyond, middle=True), 0.1 / (beyond - 2), rtol=1e-12)
    assert calibration.continued_p_value(np.array([0.0]), middle=True)[0] == 0.9


def test_the_continued_p_value_of_equal_calibration_scores_and_at_the_bounds_of_floats():
    flat = ConformalCalibration.from_scores(np.full(9, 5.0))
    np.testing.assert_allclose(flat.continued_p_value(np.array([5.0, 6.0, 8.0])), [1.0, 0.05, 0.025])
    narrow = ConformalCalibration.from_scores(np.array([0.0, 0.0, 5e-324]))
    assert (narrow.continued_p_value(np.array([1.0, 1.7e308])) > 0).all()
    wide = ConformalCalibration.from_scores(np.array([-1.7e308, -1.7e308, -1.6e308]))
    assert (wide.continued_p_value(np.array([1.7e308])) > 0).all()


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=60),
    st.lists(st.integers(-6, 6), min_size=1, max_size=20),
    st.sampled_from([0.02, 0.05, 0.1, 0.25, 0.5, 0.9]),
)
def test_threshold_and_p_value_are_one_verdict(calibration_scores, scores, fpr):
    calibration = ConformalCalibration.from_scores(np.array(calibration_scores, float))
    x = np.array(scores, float)
    np.testing.assert_allclose(
        calibration.p_value(x),
        [(1 + sum(c >= s for c in calibration_scores)) / (1 + len(calibration_scores)) for s in x],
    )
    if len(calibration_scores) < groups_needed(fpr):
        with pytest.raises(DataError, match=f"at least {groups_needed(fpr)} are needed"):
            calibration.threshold(fpr)
    else:
        np.testing.assert_array_equal(x > calibration.threshold(fpr), calibration.p_value(x) <= fpr + 1e-12)


def test_round_off_breaks_no_ties():
    kinds = np.random.default_rng(0).choice([1.0, 2.0, 5.0], 400)
    calibration = ConformalCalibration.from_scores(kinds)
    noise = np.random.default_rng(1).uniform(-1e-6, 1e-6, 400)
    np.testing.assert_array_equal(calibration.p_value(kinds + noise), calibration.p_value(kinds))
    assert not (kinds + noise > calibration.threshold(0.01)).any()
    one_kind = ConformalCalibration.from_scores(np.full(400, 7.0))
    assert one_kind.p_value(np.array([7 + 1e-6]))[0] == 1 and one_kind.p_value(np.array([7.1]))[0] == 1 / 401


@pytest.mark.parametrize("outlier", [2.0, 1e6, 1e9])
def test_one_outlier_among_ties_does_not_blur_the_rest(outlier):
    scores = np.concatenate([np.zeros(400), np.random.default_rng(0).uniform(0, 1, 98), [outlier]])
    calibration = ConformalCalibration.from_scores(scores)
    np.testing.assert_allclose(calibration.p_value(np.array([1.5, 1e10])), [2 / 500, 1 / 500])
    assert calibration.p_value(np.array([1e-6]))[0] == 1


def test_clusters_of_equal_size_are_bound_as_in_the_source_and_large_ones_among_small_leave_less():
    assert cluster_bound([5] * 20, 0.1) == pytest.approx(0.1 + 0.9 / 21)
    # a tenth of 110 samples: all ten single ones and a hundredth of the large cluster
    assert cluster_bound([100] + [1] * 10, 0.1) == pytest.approx((1 + 10 + 0.01) / 12)


@pytest.mark.parametrize(("fpr", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.3, 3), (0.5, 1)])
def test_groups_needed(fpr, needed):
    assert groups_needed(fpr) == needed
    assert ConformalCalibration.from_scores(np.arange(float(needed))).p_value(np.array([1e9]))[0] <= fpr + 1e-12


@pytest.mark.parametrize("fpr", [0.0, 1.0, -1.0, 2.0])
def test_rates_out_of_range(fpr):
    with pytest.raises(SettingError, match="between 0 and 1"):
        groups_needed(fpr)


def test_the_guarantee_holds_on_average_over_calibration_sets():
    rng = np.random.default_rng(0)
    n, level, alarms = 39, 0.1, []
    for _ in range(2000):
        calibration = ConformalCalibration.from_scores(rng.normal(size=n))
        alarms.append((calibration.p_value(rng.normal(size=20)) <= level).mean())
    mean, error = np.mean(alarms), np.std(alarms) / np.sqrt(len(alarms))
    assert level - 1 / (n + 1) - 4 * error <= mean <= level + 4 * error


def test_nan_is_refused():
    with pytest.raises(DataError, match="finite"):
        ConformalCalibration.from_scores(np.array([1.0, np.nan]))
    with pytest.raises(DataError, match="NaN"):
        ConformalCalibration.from_scores(np.arange(3.0)).p_value(np.array([1.0, np.nan]))


def test_scores_out_of_order_are_refused():
    with pytest.raises(DataError, match="from_scores"):
        ConformalCalibration(np.array([3.0, 1.0, 2.0]))
