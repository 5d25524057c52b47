"""Scores of the study that are kept beside the code."""

import numpy as np
import pytest

from fisherscope.evaluation import PairScores, average, compare, resample_pair

WHAT = {"model": "f00d", "sets": [["a[test]", "1"], ["b[test]", "2"]], "detectors": ["x", "y"], "seed": 3}


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
    kept.keep(tmp_path, "m", WHAT, pairs)
    found = kept.find(tmp_path, "m", WHAT)
    assert [(p.in_dist, p.out_dist, p.group_size, p.n_in, p.n_out) for p in found.pairs] == [
        ("a", "b1", 1, 40, 60),
        ("a", "b5", 5, 40, 60),
    ]
    assert found.made_by == kept.made_by() and {"code", "fisherscope", "torch"} <= found.made_by.keys()
    for name in ("x", "y"):
        was, now = average(pairs, name), average(found.pairs, name)
        assert now.estimate == was.estimate
        assert (now.low, now.high) == pytest.approx((was.low, was.high), abs=1 / 65535)
    was, now = compare(pairs, "x", "y").difference, compare(found.pairs, "x", "y").difference
    assert now.estimate == was.estimate > 0
    assert (now.low, now.high) == pytest.approx((was.low, was.high), abs=2 / 65535)


@pytest.mark.parametrize(
    "changed", [{"model": "beef"}, {"seed": 4}, {"detectors": ["x"]}, {"sets": [["a[test]", "9"]]}]
)
def test_scores_of_other_models_samples_or_settings_are_not_found(kept, pairs, tmp_path, changed):
    kept.keep(tmp_path, "m", WHAT, pairs)
    assert kept.find(tmp_path, "m", WHAT | changed) is None
    assert kept.find(tmp_path, "n", WHAT) is None
