import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisherscope.core.errors import DataError, SettingError
from fisherscope.evaluation import aupr_in, aupr_out, auroc, fpr_at_tpr, roc_points

tied_scores = st.lists(st.integers(-3, 3), min_size=1, max_size=12).map(lambda v: np.array(v, dtype=float))


@given(tied_scores, tied_scores)
def test_auroc_is_the_share_of_won_pairs_with_ties_as_half(inside, outside):
    wins = sum((o > i) + 0.5 * (o == i) for o in outside for i in inside)
    assert auroc(inside, outside) == pytest.approx(wins / (len(inside) * len(outside)), abs=1e-12)


@given(tied_scores, tied_scores)
def test_auroc_is_the_area_under_the_roc_points(inside, outside):
    fpr, tpr = roc_points(inside, outside)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(inside, outside), abs=1e-12)


@given(tied_scores, tied_scores)
def test_average_precision_by_hand(inside, outside):
    expected, recall_before = 0.0, 0.0
    for threshold in sorted(set(inside) | set(outside), reverse=True):
        tp, fp = (outside >= threshold).sum(), (inside >= threshold).sum()
        recall = tp / len(outside)
        expected += (recall - recall_before) * tp / (tp + fp)
        recall_before = recall
    assert aupr_out(inside, outside) == pytest.approx(expected, abs=1e-12)
    assert aupr_in(-outside, -inside) == pytest.approx(expected, abs=1e-12)


@given(tied_scores, tied_scores, st.sampled_from([0.5, 0.95, 1.0]))
def test_fpr_at_tpr_is_that_of_the_strictest_threshold_that_flags_enough(inside, outside, tpr):
    threshold = max(t for t in outside if (outside >= t).mean() >= tpr)
    assert fpr_at_tpr(inside, outside, tpr) == pytest.approx((inside >= threshold).mean())


def test_positive_class_is_ood_and_high_means_novel():
    inside, outside = np.arange(100.0), np.arange(100.0) + 90
    assert auroc(inside, outside) > 0.99
    # 95 of 100 OOD scores are >= 95: in-distribution 95..99 are flagged.
    assert fpr_at_tpr(inside, outside) == 0.05
    assert fpr_at_tpr(outside, inside) > 0.9


def test_exact_share_is_enough():
    # 19 of 20 is 95 %: the lowest OOD score need not be flagged.
    outside = np.arange(20.0)
    assert fpr_at_tpr([0.0, 0.5], outside) == 0.0


@pytest.mark.parametrize("bad", [[], [[1.0]], [np.nan, 1.0], [np.inf]])
def test_bad_scores_are_refused(bad):
    with pytest.raises(DataError, match="out-of-distribution scores"):
        auroc([0.0, 1.0], bad)


def test_tpr_out_of_range_is_refused():
    with pytest.raises(SettingError, match="tpr is 0"):
        fpr_at_tpr([0.0], [1.0], tpr=0)
