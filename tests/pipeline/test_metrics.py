"""Metrics on the way from samples to verdicts: fitted on the fit part alone, saved, checked, recorded."""

import json

import numpy as np
import pytest

import fisherscope
from fisherscope.core.errors import CardMismatchError, SettingError
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.detectors import STANDARD_DETECTORS
from fisherscope.evaluation import false_alarm_interval, split_in_dist
from fisherscope.features.metrics import SketchSettings, metric_fingerprint
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.pipeline.extraction import ExtractSettings, extract_table, fit_metrics_on, metrics_in

DETECTOR = "layerwise-upper@diagonal"


@pytest.fixture(scope="module")
def guard(glow, digits):
    return fisherscope.fit(glow, digits.select(range(150)), detector=DETECTOR, fpr=0.05, group_size=2)


def test_metrics_are_named_by_their_blocks():
    assert metrics_in(["log_p", "metric:kfac", "sketch:whitened", "layer_sketch:whitened"]) == ("kfac", "whitened")


def test_the_guards_metric_knows_the_fit_part_only(guard, target, digits):
    order = np.random.default_rng(0).permutation(150)
    n_fit = min(75 // 2, 75 - 19)
    batches = as_batches(digits.select(range(150))).select(order[: n_fit * 2])
    (metric,) = fit_metrics_on(target, batches, ["diagonal"])
    assert metric_fingerprint(guard.metrics[0]) == metric_fingerprint(metric)


def test_a_metric_learns_the_same_to_the_bit_whatever_is_fitted_beside_it(target, digits):
    samples = as_batches(digits.select(range(65)))  # batches are of 64, and a sample by itself takes another way
    alone = [fit_metrics_on(target, samples, [name])[0] for name in ("diagonal", "kfac")]
    together = fit_metrics_on(target, samples, ["diagonal", "kfac"])
    assert [metric_fingerprint(m) for m in alone] == [metric_fingerprint(m) for m in together]


def test_a_guard_with_a_metric_keeps_its_promise(guard, digits):
    p_values = guard.p_value(digits.select(range(150, 550)))
    low, high = false_alarm_interval(len(guard.calibration.scores), 200, 0.05, coverage=0.999)
    assert low <= (p_values <= 0.05).sum() <= high


def test_the_card_carries_the_fingerprint_and_foreign_tables_are_refused(guard, target, digits):
    fingerprint = metric_fingerprint(guard.metrics[0])
    assert guard.card.settings["features"]["metric:diagonal"]["metric"] == fingerprint
    some = as_batches(digits.select(range(40)))
    mine = guard.extract(digits.select(range(40)))
    np.testing.assert_array_equal(guard.score(mine), guard.score(digits.select(range(40))))
    foreign = extract_table(
        target, some, guard.detector.requires, ExtractSettings(2), metrics=fit_metrics_on(target, some, ["diagonal"])
    )
    with pytest.raises(CardMismatchError, match="'settings of metric:diagonal'"):
        guard.score(foreign)


def test_a_changed_or_exchanged_metric_file_is_refused(guard, tmp_path):
    guard.save(tmp_path)
    path = tmp_path / "metrics" / "diagonal.safetensors"
    arrays, card = read_arrays(path)
    name = next(k for k in arrays if k.startswith("square:"))
    write_arrays(path, {**arrays, name: 2 * arrays[name]}, card)
    with pytest.raises(CardMismatchError, match="'fingerprint'"):
        fisherscope.load(tmp_path)
    arrays, head = read_arrays(tmp_path / "guard.safetensors")
    write_arrays(tmp_path / "guard.safetensors", arrays, {**head, "metrics": {"../../x": "0"}})
    with pytest.raises(SettingError, match=r"'\.\./\.\./x', which is no metric of the library"):
        fisherscope.load(tmp_path)


def test_a_table_is_not_enough_for_a_metric(target, digits):
    table = extract_table(target, as_batches(digits.select(range(100))))
    with pytest.raises(SettingError, match="metric 'diagonal', which is fitted on samples; give samples"):
        fisherscope.fit(target, table, detector=DETECTOR, fpr=0.1)


def test_sketch_tables_of_other_projections_are_refused(target, digits):
    guard = fisherscope.fit(target, digits.select(range(80)), detector="rao-sketch", fpr=0.1)
    settings = ExtractSettings(sketch=SketchSettings(projection_seed=1))
    foreign = extract_table(target, as_batches(digits.select(range(5))), ["sketch"], settings)
    assert foreign.card.settings["sketch"]["projection_seed"] == 1
    with pytest.raises(CardMismatchError, match="'settings of sketch'"):
        guard.score(foreign)


def test_an_evaluation_fits_metrics_on_its_fit_part(target, digits, tmp_path):
    names = ("layerwise-chi2-size", "total-norm@kfac", "rao-sketch", "rao-sketch@equalised")
    settings = EvaluationSettings(names, (1, 3), replicates=40, tables=tmp_path)
    inside = as_batches(digits.select(range(160)))
    flipped = digits.select(range(160, 220))
    outside = as_batches(255 - flipped.x)
    done = evaluate(target, inside, [outside], settings)
    assert [(r.group_size, r.detector) for r in done.records] == [(b, n) for b in (1, 3) for n in names]
    split = split_in_dist(160, 1, 0)
    expected = {
        m.name: metric_fingerprint(m)
        for m in fit_metrics_on(target, inside.select(split.fit), ["equalised", "kfac"], ExtractSettings())
    }
    for group in done.groups.values():
        said = group.parts["test"].card.settings["features"]
        assert said["metric:kfac"]["metric"] == expected["kfac"]
        assert said["sketch:equalised"]["metric"] == expected["equalised"]
    tables = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = evaluate(target, inside, [outside], settings)
    assert again.records == done.records
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == tables


def test_an_unknown_metric_is_noticed_before_anything_is_computed():
    with pytest.raises(SettingError, match="unknown metric 'nope'"):
        EvaluationSettings(("total-norm@nope",))
    with pytest.raises(SettingError, match="likelihood takes no metric"):
        EvaluationSettings(("likelihood@kfac",))


def test_the_standard_set_needs_no_metric():
    assert metrics_in(EvaluationSettings().blocks) == ()
    assert set(STANDARD_DETECTORS) <= set(fisherscope.detector_names())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fpr_level": 2}, "fpr_level is 2, expected a false-alarm rate between 0 and 1"),
        ({"replicates": 0}, "replicates is 0, expected at least 40"),
        ({"replicates": 1e3}, "replicates is 1000.0, expected a whole number"),
        ({"group_sizes": (1, 0)}, "group_size is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_of_an_evaluation_are_checked_when_given(setting, message):
    with pytest.raises(SettingError, match=message):
        EvaluationSettings(**setting)


def test_settings_of_an_evaluation_may_be_numbers_of_numpy():
    settings = EvaluationSettings(fpr_level=np.float32(0.25), replicates=np.int64(70), group_sizes=(np.int32(2),))
    assert json.dumps([settings.fpr_level, settings.replicates, settings.group_sizes]) == "[0.25, 70, [2]]"
