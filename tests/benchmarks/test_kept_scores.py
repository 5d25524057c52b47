"""Scores of the study that are kept beside the code."""

from dataclasses import replace

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.evaluation import PairScores, average, compare, resample_pair

WHAT = {"model": "f00d", "sets": [["a[test]", "1"], ["b[test]", "2"]], "seed": 3}


@pytest.fixture
def kept(import_script):
    return import_script("kept_scores")


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    return [
        resample_pair(
            PairScores(
                in_dist="a",
                out_dist=f"b{size}",
                group_size=size,
                scores_in={"x": rng.normal(0, 1, 40), "y": rng.normal(0, 1, 40)},
                scores_out={"x": rng.normal(1, 1, 60), "y": rng.normal(0.3, 1, 60)},
                scores_calibration={},
            ),
            seed=3,
            replicates=200,
        )
        for size in (1, 5)
    ]


def test_means_and_differences_are_those_of_the_scores(kept, pairs, tmp_path):
    kept.keep(tmp_path, "m", WHAT, ["x", "y", "z"], pairs)
    found = kept.find(tmp_path, "m", WHAT)
    assert [(p.in_dist, p.out_dist, p.group_size, p.n_in, p.n_out) for p in found.pairs] == [
        ("a", "b1", 1, 40, 60),
        ("a", "b5", 5, 40, 60),
    ]
    assert found.made_by == dict.fromkeys(["x", "y", "z"], kept.made_by())
    assert {"code", "fisherscope", "torch"} <= found.made_by["x"].keys()
    for name in ("x", "y"):
        was, now = average(pairs, name), average(found.pairs, name)
        assert now.estimate == was.estimate
        assert (now.low, now.high) == pytest.approx((was.low, was.high), abs=1 / 65535)
    was, now = compare(pairs, "x", "y").difference, compare(found.pairs, "x", "y").difference
    assert now.estimate == was.estimate > 0
    assert (now.low, now.high) == pytest.approx((was.low, was.high), abs=2 / 65535)


def only(pairs, *names, factor=1.0):
    return [
        replace(
            pair,
            estimates={n: {m: v * factor for m, v in pair.estimates[n].items()} for n in names},
            replicates={n: {m: v * factor for m, v in pair.replicates[n].items()} for n in names},
        )
        for pair in pairs
    ]


def test_detectors_are_added_and_replaced_one_by_one(kept, pairs, tmp_path, monkeypatch):
    kept.keep(tmp_path, "m", WHAT, ["x"], only(pairs, "x"))
    monkeypatch.setattr(kept, "made_by", lambda: {"code": "later"})
    kept.keep(tmp_path, "m", WHAT, ["y", "unserved"], only(pairs, "y"))
    found = kept.find(tmp_path, "m", WHAT)
    assert compare(found.pairs, "x", "y").difference.estimate == compare(pairs, "x", "y").difference.estimate
    assert found.made_by["x"]["code"] != "later" and found.made_by["unserved"] == {"code": "later"}
    kept.keep(tmp_path, "m", WHAT, ["x"], only(pairs, "x", factor=0.5))
    again = kept.find(tmp_path, "m", WHAT)
    assert average(again.pairs, "x").estimate == average(pairs, "x").estimate / 2
    assert average(again.pairs, "y") == average(found.pairs, "y") and again.made_by["x"] == {"code": "later"}
    kept.keep(tmp_path, "m", WHAT, ["x"], [])  # no longer served
    assert all("x" not in pair.estimates for pair in kept.find(tmp_path, "m", WHAT).pairs)
    with pytest.raises(DataError, match="of other pairs or numbers of samples"):
        kept.keep(tmp_path, "m", WHAT, ["y"], only(pairs, "y")[:1])


@pytest.mark.parametrize("changed", [{"model": "beef"}, {"seed": 4}, {"sets": [["a[test]", "9"]]}])
def test_scores_of_other_models_samples_or_settings_are_not_found(kept, pairs, tmp_path, changed):
    kept.keep(tmp_path, "m", WHAT, ["x", "y"], pairs)
    assert kept.find(tmp_path, "m", WHAT | changed) is None
    assert kept.find(tmp_path, "n", WHAT) is None
