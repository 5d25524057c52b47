import json

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.evaluation import (
    Bootstrap,
    PairScores,
    Record,
    aupr_in,
    aupr_out,
    auroc,
    check_calibration,
    compare_auroc,
    compare_detectors,
    evaluate_pair,
    evaluate_scores,
    fpr_at_tpr,
    metric_intervals,
    read_records,
    write_records,
)

REQUIRED = {"in_dist", "out_dist", "group_size", "detector", "n_in", "n_out", "seed"} | {
    "auroc",
    "auroc_low",
    "auroc_high",
    "aupr",
    "fpr95",
}


def make_pair(**kwargs):
    rng = np.random.default_rng(0)
    names = ("likelihood", "layerwise-gaussian")
    return PairScores(
        in_dist="fashion_mnist",
        out_dist="mnist",
        group_size=5,
        scores_in={n: rng.normal(size=60) for n in names},
        scores_out={n: rng.normal(shift, size=40) for n, shift in zip(names, (-1, 1), strict=True)},
        scores_calibration={n: rng.normal(size=80) for n in names},
        **kwargs,
    )


def test_record_holds_every_metric_with_its_interval():
    pair = make_pair()
    inside, outside = pair.scores_in["likelihood"], pair.scores_out["likelihood"]
    record = evaluate_pair(pair, seed=3)[0]
    assert (record.in_dist, record.out_dist, record.group_size) == ("fashion_mnist", "mnist", 5)
    assert (record.detector, record.n_in, record.n_out, record.seed) == ("likelihood", 60, 40, 3)
    assert record.auroc == auroc(inside, outside)
    assert record.aupr == aupr_out(inside, outside)
    assert record.aupr_in == aupr_in(inside, outside)
    assert record.fpr95 == fpr_at_tpr(inside, outside)
    for name, interval in metric_intervals(inside, outside, Bootstrap(seed=3)).items():
        assert getattr(record, f"{name}_low") == interval.low
        assert getattr(record, f"{name}_high") == interval.high
    check = check_calibration(pair.scores_calibration["likelihood"], inside, 0.05)
    assert (record.false_alarm_rate, record.false_alarm_low, record.false_alarm_high) == (
        check.rate,
        check.low,
        check.high,
    )
    assert (record.fpr_level, record.n_calibration, record.calibration_ks_p) == (0.05, 80, check.ks_p)


def test_calibration_fields_stay_empty_without_calibration_scores():
    record = evaluate_scores(
        [0.0, 1.0], [1.0, 2.0], in_dist="a", out_dist="b", detector="d", group_size=1, bootstrap=Bootstrap(seed=0)
    )
    assert record.fpr_level is record.false_alarm_rate is record.calibration_ks_p is None


def test_json_holds_the_promised_fields_and_round_trips(tmp_path):
    records = evaluate_pair(make_pair(), seed=0, replicates=50)
    path = tmp_path / "results" / "records.json"
    write_records(path, records)
    plain = json.loads(path.read_text())
    assert isinstance(plain, list) and plain[0].keys() >= REQUIRED
    assert read_records(path) == records


def test_comparison_of_a_pair_is_the_comparison_of_its_scores():
    pair = make_pair(clusters_out=np.arange(40) // 2)
    direct = compare_auroc(
        (pair.scores_in["likelihood"], pair.scores_out["likelihood"]),
        (pair.scores_in["layerwise-gaussian"], pair.scores_out["layerwise-gaussian"]),
        Bootstrap(seed=1, clusters_out=np.arange(40) // 2),
    )
    assert compare_detectors(pair, "likelihood", "layerwise-gaussian", seed=1) == direct


def test_detectors_of_both_sides_must_agree():
    with pytest.raises(DataError, match="same detectors"):
        PairScores("a", "b", 1, {"x": np.zeros(2)}, {"y": np.zeros(2)})


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"auroc": 1}]', "[", ""])
def test_foreign_json_is_refused(tmp_path, content):
    path = tmp_path / "foreign.json"
    path.write_text(content)
    with pytest.raises(DataError):
        read_records(path)


def test_record_names_unknown_fields():
    record = evaluate_pair(make_pair(), seed=0, replicates=40)[0]
    with pytest.raises(DataError, match="colour"):
        Record.from_json({**record.to_json(), "colour": "red"})


def test_dependent_groups_have_no_range_of_false_alarms():
    plain, dependent = (evaluate_pair(make_pair(independent=flag), seed=0)[0] for flag in (True, False))
    assert dependent.false_alarm_rate == plain.false_alarm_rate
    assert None not in (plain.false_alarm_low, plain.false_alarm_high, plain.calibration_ks_p)
    assert dependent.false_alarm_low is dependent.false_alarm_high is dependent.calibration_ks_p is None
