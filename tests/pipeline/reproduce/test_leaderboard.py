"""The leaderboard on tiny models, against evaluations of every detector by itself."""

import numpy as np
import pytest

from fisherscope.core.errors import SettingError
from fisherscope.data import load_samples
from fisherscope.detectors import detector_names
from fisherscope.evaluation import PairScores, compare_detectors, resample_pair
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.pipeline.reproduce import leaderboard, scores
from fisherscope.pipeline.reproduce.boards import make_board
from fisherscope.pipeline.reproduce.experiments import read_experiment
from fisherscope.pipeline.reproduce.grouped import Group
from fisherscope.pipeline.target import load_target

DETECTORS = ("layerwise-gaussian", "likelihood", "rao-sketch", "pixel-mahalanobis", "waic")


def direct(models, detectors, limit, size):
    """Evaluate the tiny diffusion model without the experiment's machinery."""
    target = load_target(models / "diffusion-digits")
    sets = [load_samples("digits", limit=2 * limit)]
    sets += [load_samples(name, limit=limit, resize=(1, 8, 8)) for name in ("faces", "nonfaces")]
    batches = [as_batches(s, target) for s in sets]
    settings = EvaluationSettings(detectors, group_sizes=(size,), replicates=50)
    return evaluate(target, batches[0], batches[1:], settings)


def test_the_numbers(tiny, models, tmp_path):
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces", "nonfaces")}
    options = {"many_pass": ["msma", "likelihood-regret"], "many_pass_limit": 24, "largest": {"likelihood-regret": 9}}
    written = tiny("table-leaderboard", grid, detectors=DETECTORS, group_sizes=(1, 2), options=options, limit=28)
    results = written["results"]
    assert written["skipped"]["likelihood-regret of diffusion-digits"] == "too slow for samples of 64 numbers"
    assert "needs at least one further model" in written["skipped"]["waic of diffusion-digits"]
    served = DETECTORS[:-1]
    expected = direct(models, served, 28, 2)
    found = [r for r in results["records"] if r["group_size"] == 2]
    assert len(found) == len(expected.records) == 8
    for record in expected.records:
        same = next(r for r in found if (r["out_dist"], r["detector"]) == (record.out_dist, record.detector))
        for field in ("auroc", "auroc_low", "aupr", "aupr_high", "fpr95", "n_in", "n_out"):
            assert same[field] == pytest.approx(getattr(record, field)), (record.detector, field)
    pairs = list(expected.groups[2].pairs.values())
    compared = [compare_detectors(p, "rao-sketch", "layerwise-gaussian", seed=0, replicates=50) for p in pairs]
    difference = np.mean([c.difference.estimate for c in compared])
    lines = {(line["detector"], line["group_size"]): line for line in results["lines"]}
    assert lines["rao-sketch", 2]["difference"]["estimate"] == pytest.approx(difference)
    aurocs = {d: [r.auroc for r in expected.records if r.detector == d] for d in served}
    ranks = {d: np.mean([_rank(aurocs, d, i) for i in range(2)]) for d in served}
    assert {d: lines[d, 2]["rank"] for d in served} == pytest.approx(ranks)
    # The many-pass detector has its own, smaller sets, and is compared with the paper's method on those.
    few = direct(models, ("layerwise-gaussian", "msma"), 24, 1)
    values = [r.auroc for r in few.records if r.detector == "msma"]
    assert lines["msma", 1]["limit"] == 24 and lines["msma", 1]["auroc"]["estimate"] == pytest.approx(np.mean(values))
    table = (tmp_path / "table-leaderboard" / "colour-diffusion-b1.md").read_text()
    assert "msma (24 images)" in table and ("msma", 2) not in lines
    assert "colour-diffusion-b1-auroc-pairs" in written["details"]
    assert written["figures"] == ["colour-b1", "colour-b2"]


@pytest.mark.parametrize("largest", [{"msma": 9}, {}])  # too slow, and of no use to a VAE
def test_without_a_detector_of_many_passes_the_reference_is_not_scored_again(tiny, monkeypatch, largest):
    asked = []

    def score_case(context, case, *, limit=None, **how):
        asked.append(limit)
        return scores.score_case(context, case, limit=limit, **how)

    monkeypatch.setattr(leaderboard, "score_case", score_case)
    grid = {"families": ("vae",), "in_dist": ("digits",), "out_dist": ("faces",)}
    options = {"many_pass": ["msma"], "many_pass_limit": 24, "largest": largest}
    written = tiny("table-leaderboard", grid, detectors=DETECTORS[:2], group_sizes=(1,), options=options, limit=28)
    assert "msma of vae-digits" in written["skipped"]
    assert [limit for limit in asked if limit] == ([] if largest else [24])


@pytest.mark.parametrize(("given", "scored"), [((), True), (("digits", "faces"), True), (("faces",), False)])
def test_detectors_of_many_passes_can_be_given_to_some_models_alone(tiny, given, scored):
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces",)}
    options = {"many_pass": ["msma"], "many_pass_limit": 24, "many_pass_in_dist": given}
    written = tiny("table-leaderboard", grid, detectors=DETECTORS[:2], group_sizes=(1,), options=options, limit=28)
    assert ("msma" in {line["detector"] for line in written["results"]["lines"]}) is scored
    skipped = written["skipped"].get("detectors of many passes of diffusion-digits", "")
    assert ("given to models of faces alone" in skipped) is not scored


def test_groups_alone_leave_out_the_detectors_of_many_passes(tiny):
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces",)}
    options = {"many_pass": ["msma"], "many_pass_limit": 24}
    written = tiny("table-leaderboard", grid, detectors=DETECTORS[:2], group_sizes=(2,), options=options, limit=28)
    assert {line["detector"] for line in written["results"]["lines"]} == set(DETECTORS[:2])


def test_a_detector_of_some_pairs_alone_is_not_ranked_among_those_of_all():
    names = {"a": ("paper", "rare"), "b": ("paper", "other"), "c": ("paper", "other")}
    pairs = []
    for out_dist, served in names.items():
        rng = np.random.default_rng(ord(out_dist))
        scores = {name: rng.normal(name == "rare", 1, 30) for name in served}
        shifted = {name: values + 1 for name, values in scores.items()}
        made = PairScores("in", out_dist, 1, scores_in=scores, scores_out=shifted, scores_calibration={})
        pairs.append(resample_pair(made, seed=0, replicates=40))
    group = Group("colour", "glow", 1, tuple(pairs))
    options = leaderboard.Options(reference="paper")
    lines = list(leaderboard._lines(group, options, many_pass=False))
    assert {line["detector"]: (line["every_pair"], line["rank"]) for line in lines} == {
        "paper": (True, 1.0),
        "rare": (False, None),
        "other": (False, None),
    }
    assert "number 1 of 1" in leaderboard._note(lines, options)
    table = make_board([group], lines, "").tables["colour-glow-b1"]
    assert next(name for name, _ in table.rows) == "paper" and table.rules == (1,)
    assert [any(cell.bold for cell in cells) for _, cells in table.rows] == [True, False, False]
    with pytest.raises(SettingError, match="the reference rare cannot serve every glow model"):
        list(leaderboard._lines(group, leaderboard.Options(reference="rare"), many_pass=False))


def _rank(aurocs, detector, pair):
    """1 + the better ones + half of the equal ones."""
    own = aurocs[detector][pair]
    others = [values[pair] for name, values in aurocs.items() if name != detector]
    return 1 + sum(o > own for o in others) + sum(o == own for o in others) / 2


def test_it_holds_every_detector():
    experiment = read_experiment("table-leaderboard")
    assert set(detector_names()) <= {*experiment.detectors, *experiment.options["many_pass"]}
