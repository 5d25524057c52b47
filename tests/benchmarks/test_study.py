"""The page of the study, on scores that are made up."""

import numpy as np
import pytest

from fisherscope.evaluation import PairScores, average, compare, resample_pair


@pytest.fixture
def study(import_script):
    return import_script("study")


def case(study, in_dist, out_dist, names):
    rng = np.random.default_rng(len(in_dist + out_dist))
    scores = PairScores(
        in_dist=in_dist,
        out_dist=out_dist,
        group_size=1,
        scores_in={name: rng.normal(0, 1, 30) for name in names},
        scores_out={name: rng.normal(1, 1, 40) for name in names},
        scores_calibration={},
    )
    return study.Case("glow", resample_pair(scores, seed=0, replicates=100))


def test_a_detector_that_one_model_serves_is_compared_on_that_model_alone(study):
    everywhere = (study.DEFAULT_DETECTOR, study.PAPER, *study.RIVALS, "rao-sketch")
    cases = [
        case(study, "fashion_mnist", "mnist", (*everywhere, "waic")),
        case(study, "mnist", "fashion_mnist", everywhere),
    ]
    page, figures = study.write_page(study.Grid(tuple(cases), {}, {}), "a command")
    (line,) = figures["of_few"]
    assert line["detector"] == "waic" and line["cases"] == [["glow", "fashion_mnist", "mnist"]]
    pair = [cases[0].pair]
    assert line["mean"][0] == pytest.approx(average(pair, "waic").estimate, abs=1e-4)
    assert line["default"][0] == pytest.approx(average(pair, study.DEFAULT_DETECTOR).estimate, abs=1e-4)
    difference = compare(pair, study.DEFAULT_DETECTOR, "waic").difference
    assert line["difference"] == pytest.approx([difference.estimate, difference.low, difference.high], abs=1e-4)
    assert "| waic, B = 1 | glow of fashion_mnist (1) |" in page
    assert {m["detector"] for m in figures["means"]} == set(everywhere)


def test_the_page_says_which_code_scored_what(study):
    old, new = {"torch": "2", "code": "aa"}, {"torch": "2", "code": "bb"}
    one = study._by_code({"glow-a": {"x": old, "y": old, "z": old}})
    assert study._made_by(one) == "All scored by torch 2, code `aa`.\n"
    both = study._by_code({"glow-a": {"x": old, "y": old, "z": old}, "vae-a": {"x": old, "y": old, "z": new}})
    assert study._made_by(both) == (
        "Scored by torch 2, code `aa`: glow-a, vae-a.\nScored by torch 2, code `bb`: z of vae-a.\n"
    )
