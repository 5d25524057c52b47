from dataclasses import replace

import pytest

from fisherscope.evaluation import compare_detectors
from fisherscope.report import pair_verdicts
from fisherscope.report.verdict import headline


def with_auroc(content, **intervals):
    """Return the content of the first pair at B = 1 with other AUROCs, (low, estimate, high) by detector."""
    records = []
    for record in content.records[:3]:
        low, estimate, high = intervals.get(record.detector.replace("-", "_"), (0.4, 0.5, 0.6))
        records.append(replace(record, auroc=estimate, auroc_low=low, auroc_high=high))
    return replace(content, records=tuple(records), pairs=())


@pytest.mark.parametrize(
    ("interval", "state", "sentence"),
    [
        ((0.1, 0.12, 0.14), "fails", "Likelihood fails: the model finds mnist more likely than fashion_mnist"),
        ((0.45, 0.48, 0.51), "is no better than chance", "Likelihood cannot tell mnist from fashion_mnist"),
        ((0.8, 0.82, 0.84), "does not fail", "Likelihood does not fail here"),
    ],
)
def test_likelihood_fails_only_when_its_whole_interval_is_below_chance(content, interval, state, sentence):
    (verdict,) = pair_verdicts(with_auroc(content, likelihood=interval))
    assert verdict.likelihood == state
    assert sentence in verdict.text
    assert f"{interval[1]:.3f} [{interval[0]:.3f}, {interval[2]:.3f}]" in verdict.text


def test_a_detector_below_chance_is_said_to_be(content):
    (verdict,) = pair_verdicts(with_auroc(content, layerwise_gaussian=(0.41, 0.444, 0.47)))
    assert "layerwise-gaussian reaches 0.444" in verdict.text
    assert "itself below chance" in verdict.text


def test_a_control_that_wins_is_said_to_win(content):
    (verdict,) = pair_verdicts(with_auroc(content, pixel_mahalanobis=(0.9, 0.95, 0.97)))
    assert "pixel-mahalanobis, a control that uses no model, reaches 0.950" in verdict.text
    assert "does not show that the model helps" in verdict.text
    (verdict,) = pair_verdicts(with_auroc(content, layerwise_gaussian=(0.9, 0.95, 0.97)))
    assert "does not show that the model helps" not in verdict.text


def test_comparison_is_the_paired_one_at_the_smallest_group_size(content, pairs):
    first, second = pair_verdicts(content)
    assert (first.column.group_size, second.column.group_size) == (1, 1)
    expected = compare_detectors(pairs[0], "layerwise-gaussian", "likelihood", seed=0, replicates=200)
    assert first.comparison == expected
    assert f"better than likelihood by {expected.difference.estimate:.3f}" in first.text


def test_worse_than_likelihood_is_said_with_its_sign_turned(content):
    swapped = replace(content, detector="pixel-mahalanobis", controls=())
    pair = content.pairs[0]
    worse = replace(pair, scores_out={**pair.scores_out, "pixel-mahalanobis": pair.scores_out["likelihood"] - 2})
    (verdict, _) = pair_verdicts(replace(swapped, pairs=(worse,)))
    difference = verdict.comparison.difference
    assert difference.high < 0
    assert f"worse than likelihood by {-difference.estimate:.3f} [{-difference.high:.3f}, " in verdict.text


def test_headline_of_one_pair_and_of_several(content):
    one = with_auroc(content, likelihood=(0.1, 0.12, 0.14), layerwise_gaussian=(0.4, 0.44, 0.48))
    assert (
        headline(one, pair_verdicts(one)) == "Likelihood fails on mnist (AUROC 0.12); layerwise-gaussian reaches 0.44."
    )
    text = headline(content, pair_verdicts(content))
    assert text.startswith("Likelihood fails on 2 of 2 out-of-distribution sets; layerwise-gaussian is better")


def test_verdict_without_likelihood_or_detector_stays_silent_about_them(content):
    only = replace(content, records=content.records[2:3], controls=(), pairs=())
    (verdict,) = pair_verdicts(only)
    assert verdict.likelihood is verdict.comparison is None
    assert verdict.text == ""
    assert headline(only, (verdict,)) == "fashion_mnist → mnist was tested."
