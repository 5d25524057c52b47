"""What the ablation study does to tables and scores, and its page, on numbers that are made up."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fisherscope.core.table import Card, FeatureTable
from fisherscope.data import load_samples
from fisherscope.detectors import make_detector
from fisherscope.evaluation import PairScores, auroc
from fisherscope.models.base import make_model
from fisherscope.models.files import read_head
from fisherscope.models.training import TrainSettings
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import GroupResult
from fisherscope.pipeline.extraction import ExtractSettings, extract_table
from fisherscope.pipeline.target import load_target
from fisherscope.pipeline.training import train_on

COLUMNS = ("conv.weight", "conv.bias", "norm.scale", "out.weight", "out.bias")
N_FIT = 60


@pytest.fixture
def scores(import_script):
    return import_script("study_ablation_scores")


@pytest.fixture
def page(import_script):
    return import_script("study_ablations")


def table(rng, n, size=1, shift=0.0):
    return FeatureTable(
        blocks={
            "term_norm": np.exp(rng.normal(shift, 1, (n, len(COLUMNS)))),
            "term_log_p": rng.normal(-100, 10, (n, size, 1)),
            "code_length": np.exp(rng.normal(7, 0.2, (n, size))),
            "predictive_length": np.exp(rng.normal(7, 0.2, (n, size))),
        },
        columns={"term_norm": COLUMNS},
        ids=tuple(tuple(f"{i}.{j}" for j in range(size)) for i in range(n)),
        keys=np.arange(n * size, dtype=np.uint64).reshape(n, size),
        card=Card("m", "m", "d", "d", size, 0, "float64"),
    )


@pytest.fixture
def group():
    """Result of the default on samples of which every layer's norm tells what they are."""
    rng = np.random.default_rng(0)
    parts = {name: table(rng, n) for name, n in (("fit", N_FIT), ("calibration", 30), ("test", 41))}
    out = table(rng, 80, shift=3.0)
    detector = make_detector("fisher-dose").fit(parts["fit"])
    inside, outside = ({"fisher-dose": detector.score(t)} for t in (parts["test"], out))
    pair = PairScores("good", "other", 1, inside, outside)
    return GroupResult(1, parts, {"other": out}, {"other": pair}, {"fisher-dose": detector}, {})


def test_weights_have_two_long_axes(scores):
    module = nn.ModuleDict({"conv": nn.Conv2d(1, 3, 3), "out": nn.Linear(3, 4)})
    module.scale = nn.Parameter(torch.ones(3, 1, 1))
    assert scores.weight_names(module) == {"conv.weight", "out.weight"}


def test_layers_are_taken_with_their_names(scores):
    whole = table(np.random.default_rng(0), 8)
    part = scores.only_layers(whole, {"out.weight", "conv.weight"})
    assert part.columns["term_norm"] == ("conv.weight", "out.weight")
    np.testing.assert_array_equal(part.block("term_norm"), whole.block("term_norm")[:, [0, 3]])
    np.testing.assert_array_equal(part.block("term_log_p"), whole.block("term_log_p"))


def test_a_layer_is_taken_of_every_term(scores):
    whole = table(np.random.default_rng(0), 8)
    both = tuple(f"{name} [{term}]" for term in ("a", "b") for name in COLUMNS)
    norms = np.concatenate([whole.block("term_norm")] * 2, axis=1)
    whole = replace(whole, blocks={**whole.blocks, "term_norm": norms}, columns={"term_norm": both})
    part = scores.only_layers(whole, {"conv.weight"})
    assert part.columns["term_norm"] == ("conv.weight [a]", "conv.weight [b]")
    weights, others = (v.change(whole) for v in scores.layer_variants(whole, {"conv.weight"})[:2])
    assert weights.columns["term_norm"] == part.columns["term_norm"]
    assert len(others.columns["term_norm"]) == 2 * len(COLUMNS) - 2


def test_each_code_can_stand_alone(scores, group):
    fit, test = group.parts["fit"], group.parts["test"]
    by_name = {v.name: v.make() for v in scores.code_variants()}
    assert len(by_name) == 2
    for code in ("code_length", "predictive_length"):
        alone = by_name[scores.alone_name("fisher-dose", code)].fit(fit)
        changed = replace(test, blocks={**test.blocks, code: test.block(code) * 2})
        assert alone.requires == ("term_norm", "term_log_p", code) and (alone.score(changed) != alone.score(test)).all()


def test_a_subset_is_of_whole_groups_and_differs_by_seed(scores):
    whole = table(np.random.default_rng(0), 40, size=5)
    first, again, other = (scores.subset(whole, 100, seed) for seed in (0, 0, 1))
    assert len(first) == 20 and first.ids == again.ids != other.ids
    assert set(first.ids) < set(whole.ids)


def test_noise_draws_are_averaged_on_the_scale_that_the_detector_reads(scores):
    rng = np.random.default_rng(0)
    first, second = table(rng, 8), table(rng, 8)
    codes = {code: first.block(code) for code in ("code_length", "predictive_length")}
    second = replace(second, blocks={**second.blocks, **codes})
    mean = scores.averaged([first, second])
    np.testing.assert_allclose(
        mean.block("term_norm"), np.sqrt(first.block("term_norm") * second.block("term_norm")), rtol=1e-12
    )
    np.testing.assert_allclose(mean.block("term_log_p"), (first.block("term_log_p") + second.block("term_log_p")) / 2)
    for code, lengths in codes.items():
        np.testing.assert_array_equal(mean.block(code), lengths)


def test_the_present_limits_are_the_base_detectors(scores, group):
    fit, test = group.parts["fit"], group.parts["test"]
    by_name = {v.name: v for v in scores.sized_variants()}
    assert len(by_name) == len(scores.BASES) * (len(scores.COMPONENTS) + len(scores.MODES))
    for base in scores.BASES:
        want = make_detector(base).fit(fit).score(test)
        for name in (scores.components_name(base, 10), scores.modes_name(base, 4)):
            np.testing.assert_array_equal(by_name[name].make().fit(fit).score(test), want)


def test_controls(scores, group):
    halves, labels, swapped = scores.controls(group).values()
    assert [(c.n_in, c.n_out) for c in (halves, labels, swapped)] == [(20, 21), (41, 80), (41, 40)]
    for control in (halves, labels):
        found = control.interval("fisher-dose")
        assert found.estimate == pytest.approx(0.5, abs=0.01) and found.low < 0.45 and found.high > 0.55
    pair = group.pairs["other"]
    assert auroc(pair.scores_in["fisher-dose"], pair.scores_out["fisher-dose"]) > 0.95
    assert swapped.interval("fisher-dose").high < 0.1
    again = scores.controls(group)["labels shuffled"]
    np.testing.assert_array_equal(*(c.replicates["fisher-dose"]["auroc"] for c in (labels, again)))


def test_an_untrained_model_is_that_before_the_first_step(scores, tmp_path):
    digits = load_samples("digits[train]")
    config = {"steps": 1, "hidden": 4}
    train_on("glow", digits, TrainSettings(steps=2, batch_size=8), tmp_path / "glow", config=config)
    head = read_head(tmp_path / "glow")
    fresh, again = (scores.untrained(head, None) for _ in range(2))
    bare = make_model("glow", **head.config)
    assert not fresh.training
    states = [model.state_dict() for model in (fresh, again, bare)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    changed = {k for k in states[0] if not torch.equal(states[0][k], states[2][k])}
    assert changed and all("actnorm" in name for name in changed)


def test_other_noise_of_the_same_groups(scores, tmp_path):
    digits = load_samples("digits[train]")
    config = {"hidden": 4, "latents": 2}
    train_on("vae", digits, TrainSettings(steps=2, batch_size=8), tmp_path / "vae", config=config)
    target = load_target(tmp_path / "vae")
    data = as_batches(load_samples("digits[test]", limit=12), target)
    context = scores.make_context(scores.Settings(tmp_path, (), tmp_path / "work", None, 12))
    first = extract_table(target, data.select([3, 1, 7, 2]), ("term_norm", "term_log_p"), ExtractSettings(2, 0))
    same, other = (scores.noise_table(context, target, data, first, seed) for seed in (0, 1))
    assert same.ids == other.ids == first.ids
    np.testing.assert_array_equal(same.block("term_norm"), first.block("term_norm"))
    assert (other.block("term_log_p") != first.block("term_log_p")).all()


def study_of(scores, named, controls):
    """A study of one family whose scores at both group sizes are given: in-distribution 0, 1, ..., OOD shifted."""
    study = scores.Study(missing=("glow-mnist",))
    inside = np.arange(40.0)
    for size in (1, 5):
        scored = {name: (inside, inside + shift) for name, shift in named.items()}
        pair = PairScores(
            "mnist[test]", "fashion_mnist[test]", size, *({k: v[i] for k, v in scored.items()} for i in (0, 1))
        )
        case = scores.Case("vae", scores.resampled(pair))
        study.main.append(case)
        study.fit_sizes.append(case)
        for name, shift in controls.items():
            only = replace(pair, scores_in={"fisher-dose": inside}, scores_out={"fisher-dose": inside + shift})
            study.controls.setdefault(name, []).append(scores.Case("vae", scores.resampled(only)))
    study.components = {name: [2, 3] for name in named}
    return study


def test_the_page(scores, page):
    sized = {v.name: 20.0 for v in scores.sized_variants()}
    layers = {scores.alone_name(base, which): 5.0 for base in scores.BASES for which in scores.LAYERS}
    codes = {v.name: 15.0 for v in scores.code_variants()}
    named = dict.fromkeys(scores.NAMED, 20.0) | codes | sized | layers
    named |= {
        "typicality": 40.5,
        scores.fit_name("fisher-dose", 100): 10.0,
        scores.fit_name("gradient-dose", 100): 20.0,
    }
    controls = {"halves": 0.0, "labels shuffled": 30.0, "fitted on the OOD set": -20.0}
    study = study_of(scores, named, controls)
    text, figures = page.write_page(study, "python some.py")
    assert "Written by `python some.py`" in text and "Not there, or without the other set: glow-mnist." in text
    assert "| **fisher-dose** |" in text and "| fisher-dose, k ≤ 5 [2 to 3] |" in text
    assert "| fisher-dose, code_length alone | " in text
    assert "fisher-dose, 100 fit samples" in text and "fisher-dose, 200 fit samples" not in text
    assert "Not measured in this run: they need `--extra`" in text and "Training length" not in text
    assert "- What the gradients bring (default minus `complexity-dose`): +0.000 [+0.000, +0.000] at B = 1 (not" in text
    assert figures["worth"]["code lengths, B = 5"] == [0, 0, 0]
    better = {(one["name"], one["models"]) for one in figures["better"]}
    assert better == {("typicality", "vae"), ("typicality", "all")}
    kept = {(c["control"], c["as_expected"]) for c in figures["controls"]}
    assert kept == {("halves", True), ("labels shuffled", False), ("fitted on the OOD set", True)}
    first = figures["tables"]["5. Weights, or biases and scales"][1]
    assert first["name"] == "fisher-dose, weights alone"
    inside = np.arange(40.0)
    want = auroc(inside, inside + 5) - auroc(inside, inside + 20)
    assert first["all"]["difference"][0] == pytest.approx(want, abs=1e-4) and first["all"]["difference"][2] < 0


def test_what_untrained_models_have_already(scores, page):
    def case(size):
        inside = np.arange(40.0)
        shifts = {"fisher-dose": 20, "gradient-dose": 20, "complexity-dose": 20}
        shifts |= {scores.untrained_name(name): shift for name, shift in zip(shifts, (20, 0, 20), strict=True)}
        pair = PairScores(
            "mnist", "fashion_mnist", size, dict.fromkeys(shifts, inside), {k: inside + v for k, v in shifts.items()}
        )
        return scores.Case("vae", scores.resampled(pair))

    figures = {}
    text = page.needless([case(1), case(5)], figures)
    assert "`fisher-dose` 100 % (B = 1) and 100 % (B = 5), `gradient-dose`" in text
    assert figures["untrained_share"]["gradient-dose, B = 5"] == pytest.approx(0)


def test_the_command_line_names_no_place(page, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    name, folder = page.named_folder(f"half={tmp_path}")
    options = argparse.Namespace(
        zoo=tmp_path, limit=500, extra=100, models=["vae-mnist"], extra_models=["glow-mnist"], shorter=[(name, folder)]
    )
    line = page.command(options)
    assert str(tmp_path) not in line
    assert line.endswith(
        "--limit=500 --extra=100 --zoo=DIR --models vae-mnist --extra-models glow-mnist --shorter half=DIR"
    )
    with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=DIR with the folder of a saved model"):
        page.named_folder("half=nowhere")
