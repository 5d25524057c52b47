"""The parts that an evaluation fits, calibrates and tests on."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from fisherscope.core.errors import DataError, ModelError, SettingError
from fisherscope.detectors import Detector
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate, score_sets
from fisherscope.pipeline.target import Target


def test_equal_samples_are_in_one_part(target, digits):
    in_dist = as_batches(np.concatenate([digits.x[:60], digits.x[:40]]), target)
    settings = EvaluationSettings(("likelihood",), group_sizes=(1, 2))
    scored = score_sets(target, in_dist, [as_batches(digits.select(range(100, 120)), target)], settings)
    for size, group in scored.groups.items():
        keys = [set(table.keys.ravel().tolist()) for table in group.parts.values()]
        assert not any(a & b for a, b in combinations(keys, 2))
        assert sum(len(table) for table in group.parts.values()) * size > 100 - 3 * size
    protocol = scored.protocol
    assert protocol.n_fit + protocol.n_calibration + protocol.n_test == 100


def test_equal_samples_are_resampled_together(target, digits):
    twice = as_batches(np.concatenate([digits.x, digits.x]), target)
    other = as_batches(1 - digits.x, target)
    scored = score_sets(target, twice, [replace(other, name="other")], EvaluationSettings(("likelihood",), (1,)))
    pair = scored.groups[1].pairs["other"]
    assert scored.protocol.clustered == (twice.name,)
    assert pair.clusters_out is None and len(set(pair.clusters_in)) == len(pair.clusters_in) // 2


def test_dependent_samples_have_no_calibration_check(target, digits):
    thrice = as_batches(np.concatenate([digits.x[:200]] * 3), target)
    other = replace(as_batches(digits.x[300:340], target), name="other")
    (record,) = evaluate(target, thrice, [other], EvaluationSettings(("likelihood",), (1,), replicates=40)).records
    assert record.calibration_ks_p is None and record.false_alarm_rate is not None


def test_sets_of_other_kinds_of_samples_are_refused():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

    own = Target(Own(), lambda module, x: -module.scale * x.flatten(1).square().sum(1), "own")
    rng = np.random.default_rng(0)
    levels = as_batches(rng.integers(0, 256, (100, 3, 2, 2), dtype=np.uint8))
    for x, found in (
        (rng.normal(size=(20, 3, 2, 2)), r"floating of shape \(3, 2, 2\)"),
        (rng.integers(0, 256, (20, 3, 4, 1), dtype=np.uint8), r"8-bit of shape \(3, 4, 1\)"),
    ):
        other = replace(as_batches(x), name="other")
        with pytest.raises(DataError, match=f"other: samples are {found}, array holds samples that are 8-bit of shape"):
            evaluate(own, levels, [other], EvaluationSettings(("likelihood",)))


@pytest.mark.parametrize(
    ("detectors", "sizes", "error", "message"),
    [
        (("likelihood", "msma"), (1,), ModelError, "msma cannot be had of tiny-glow: Glow is no diffusion model"),
        (("likelihood", "fisher-dose"), (1, 9), DataError, "it needs 20 groups of 9 to fit on, .* leaves 5"),
        ("likelihood", (1,), SettingError, "expected a tuple of names"),
        ((Detector,), (1,), SettingError, "expected a tuple of names"),
        (("likelihood", "likelihood"), (1,), SettingError, "detectors are .*, expected at least one and none twice"),
        (("likelihood",), (1, 1), SettingError, "group sizes are"),
    ],
)
def test_what_cannot_be_had_is_said_before_the_work(target, digits, monkeypatch, detectors, sizes, error, message):
    sets = [as_batches(digits.select(range(100)), target), replace(as_batches(digits.x[100:120], target), name="other")]
    monkeypatch.setattr("fisherscope.pipeline.evaluation._Evaluation.at_group_size", lambda *_: pytest.fail("begun"))
    with pytest.raises(error, match=message):
        evaluate(target, sets[0], sets[1:], EvaluationSettings(detectors, sizes))


def test_samples_of_both_sets_are_said(target, digits, caplog):
    own, other = as_batches(digits.select(range(120)), target), as_batches(digits.select(range(110, 150)), target)
    evaluate(target, own, [replace(other, name="other")], EvaluationSettings(("likelihood",), (1,)))
    assert "10 of 40 samples of other are in digits[test] too" in caplog.text
