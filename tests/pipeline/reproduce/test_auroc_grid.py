"""The table of the paper's method and typicality on tiny models, against a calculation by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from fisherscope.core.errors import DataError, SettingError
from fisherscope.data import load_samples
from fisherscope.evaluation import out_dist_groups, split_in_dist
from fisherscope.models.base import load_model
from fisherscope.pipeline import cache, extraction
from fisherscope.pipeline.reproduce import run, scores
from fisherscope.pipeline.reproduce.case import NothingLeftError
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.experiments import read_experiment


def features(model, samples, rows, size):
    """Norms by hand: one backward pass a group; log p of every sample."""
    groups = rows.reshape(-1, size)
    norms, log_p = [], []
    for group in groups:
        x = torch.from_numpy(samples.x[group]).float()
        value = model.log_prob(x, keys=samples.keys[group])
        gradients = torch.autograd.grad(value.sum(), list(model.parameters()), allow_unused=True)
        norms.append([0.0 if g is None else float(g.double().square().sum()) for g in gradients])
        log_p.append(value.detach().double().numpy())
    return np.array(norms), np.array(log_p)


def by_hand(model, in_dist, out_dist, size):
    """AUROC of both detectors."""
    split = split_in_dist(len(in_dist), size, 0, clusters=in_dist.clusters)
    fit, test = (features(model, in_dist, rows, size) for rows in (split.fit, split.test))
    out = features(model, out_dist, out_dist_groups(len(out_dist), size, 0).ravel(), size)
    floor = np.finfo(np.float32).tiny
    logs = [np.log(np.maximum(norms, floor)) for norms, _ in (fit, test, out)]
    varied = logs[0].std(axis=0) > 1e-6
    mean, std = logs[0][:, varied].mean(axis=0), logs[0][:, varied].std(axis=0, ddof=1)
    gaussian = [-norm.logpdf(v[:, varied], mean, std).sum(axis=1) for v in logs[1:]]
    entropy = -fit[1].mean()
    typicality = [np.abs(-log_p.mean(axis=1) - entropy) for _, log_p in (test, out)]
    labels = np.repeat([0, 1], [len(test[0]), len(out[0])])
    return [roc_auc_score(labels, np.concatenate(scores)) for scores in (gaussian, typicality)]


def test_the_numbers(tiny, models, tmp_path):
    written = tiny("table-auroc", {"families": ("glow", "vae")}, group_sizes=(1, 2))
    results = written["results"]
    assert {(r["model"], r["in_dist"]) for r in results["records"]} == {
        ("glow", "digits[test]"),
        ("glow", "faces[test]"),
        ("vae", "digits[test]"),
    }
    assert written["skipped"].keys() == {"model glow-nonfaces", "model vae-faces", "model vae-nonfaces"}
    assert len(results["records"]) == 2 * 2 * 6
    in_dist = load_samples("digits", limit=80)
    out_dist = load_samples("nonfaces", limit=40, resize=(1, 8, 8))
    for family, size in (("glow", 1), ("glow", 2), ("vae", 2)):
        found = [
            r["auroc"]
            for r in results["records"]
            if (r["model"], r["in_dist"], r["out_dist"], r["group_size"])
            == (family, "digits[test]", "nonfaces[test]", size)
        ]
        assert found == pytest.approx(by_hand(load_model(models / f"{family}-digits"), in_dist, out_dist, size))
    for mean in results["means"]:
        same = [r for r in results["records"] if all(r[k] == mean[k] for k in ("model", "group_size", "detector"))]
        values = [r["auroc"] for r in same]
        assert mean["mean"]["estimate"] == pytest.approx(np.mean(values)) and mean["pairs"] == len(values)
        assert mean["quartiles"] == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))
        assert mean["mean"]["low"] <= mean["mean"]["estimate"] <= mean["mean"]["high"]
    table = (tmp_path / "table-auroc" / "colour-b2.md").read_text()
    first = results["records"][-1]
    assert f"{first['auroc']:.3f}" in table and "mean of pairs" in table
    tex = (tmp_path / "table-auroc" / "colour-b2.tex").read_text()
    assert r"\multicolumn{2}{c}{glow}" in tex and tex.count(r"\midrule") == 2


def test_a_second_run_reads_the_tables_only(tiny, monkeypatch, tmp_path):
    first = tiny("table-auroc", {"families": ("vae",)})
    monkeypatch.setattr(extraction, "extract_blocks", None)
    second = tiny("table-auroc", {"families": ("vae",)})
    assert second["results"] == first["results"]
    assert second["seconds_first_run"] == first["seconds"]


def test_scores_of_other_code_are_not_used(tiny, monkeypatch, caplog):
    first = tiny("table-auroc", {"families": ("vae",)})
    assert caplog.messages == []
    monkeypatch.setattr(cache, "code_digest", lambda *parts: "changed")
    real, calls = scores.resample_pair, []
    monkeypatch.setattr(scores, "resample_pair", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert tiny("table-auroc", {"families": ("vae",)})["results"] == first["results"]
    assert calls and len(caplog.messages) == 1 and "computed by other code" in caplog.messages[0]


def test_an_interrupted_run_goes_on_and_counts_its_time(tiny, monkeypatch, tmp_path):
    real, calls = extraction.extract_blocks, []

    def stop_at_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(extraction, "extract_blocks", stop_at_the_third)
    monkeypatch.setattr(extraction, "BATCH", 64)
    with pytest.raises(KeyboardInterrupt):
        tiny("table-auroc", {"families": ("vae",)})
    times = tmp_path / "table-auroc" / "times.json"
    ((spent, finished),) = (kept.values() for kept in json.loads(times.read_text()).values())
    assert not finished
    before = len(calls)
    written = tiny("table-auroc", {"families": ("vae",)})
    assert written["seconds_first_run"] == pytest.approx(written["seconds"] + spent, abs=0.11)
    assert all(kept["finished"] for kept in json.loads(times.read_text()).values())
    # At each group size two batches of digits and one of each other set; the first table of two was finished.
    assert len(calls) - before == 2 * (2 + 1 + 1) - 2


def test_a_quick_run_in_between_leaves_the_time_of_the_full_one_alone(tiny, settings, models, tmp_path, monkeypatch):
    grid = {"families": ("vae",), "in_dist": ("digits",), "out_dist": ("faces",)}
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(run.time, "monotonic", lambda: float(next(clock)))
    full = tiny("table-auroc", grid)["seconds_first_run"]
    quick = tiny("table-auroc", grid, limit=20)["seconds_first_run"]
    monkeypatch.setattr(run.time, "monotonic", lambda: 0.0)
    assert full and tiny("table-auroc", grid)["seconds_first_run"] == full
    assert quick and tiny("table-auroc", grid, limit=20)["seconds_first_run"] == quick
    # one more model is a run of another size
    assert tiny("table-auroc", {**grid, "families": ("vae", "glow")})["seconds_first_run"] == 0
    (settings.tables.parent / "few").mkdir()
    (settings.tables.parent / "few" / "vae-digits").symlink_to(models / "vae-digits")
    experiment = read_experiment("table-auroc")
    both = experiment.grids[0].model_copy(update={**grid, "families": ("vae", "glow")})
    experiment = experiment.model_copy(update={"grids": (both,), "limit": 40})
    elsewhere = replace(settings, models=tmp_path / "few")
    run.reproduce("table-auroc", experiment, elsewhere, tmp_path / "table-auroc", command="")
    assert len(json.loads((tmp_path / "table-auroc" / "times.json").read_text())) == 4


def test_nothing_left_is_an_error_that_says_why(settings):
    experiment = read_experiment("table-auroc")
    grid = experiment.grids[0].model_copy(update={"families": ("pixelcnn",), "in_dist": ("digits",)})
    with pytest.raises(DataError, match=r"nothing is left to do.*model pixelcnn-digits"):
        _ = Context(experiment.model_copy(update={"grids": (grid,)}), settings).cases
    with pytest.raises(SettingError, match=r"there is no experiment 'table-9'; there are: .*table-auroc"):
        read_experiment("table-9")


def test_fishers_method_adds_logarithms(tiny, models):
    """Against p-values by hand, of a table of the engine."""
    written = tiny("table-fishers-method", {"families": ("vae",), "in_dist": ("digits",), "out_dist": ("faces",)})
    model = load_model(models / "vae-digits")
    in_dist, out_dist = load_samples("digits", limit=80), load_samples("faces", limit=40, resize=(1, 8, 8))
    split = split_in_dist(len(in_dist), 1, 0)
    rows = (split.fit, split.test, out_dist_groups(len(out_dist), 1, 0).ravel())
    sets = (in_dist, in_dist, out_dist)
    logs = [np.log(features(model, s, r, 1)[0]) for s, r in zip(sets, rows, strict=True)]
    z = [(v - logs[0].mean(axis=0)) / logs[0].std(axis=0, ddof=1) for v in logs[1:]]
    labels = np.repeat([0, 1], [len(v) for v in z])
    for name, log_p in {
        "layerwise-fisher": [np.log(2) + norm.logsf(np.abs(v)) for v in z],
        "layerwise-fisher-upper": [norm.logsf(v) for v in z],
    }.items():
        expected = roc_auc_score(labels, np.concatenate([-2 * p.sum(axis=1) for p in log_p]))
        found = [r for r in written["results"]["records"] if (r["detector"], r["group_size"]) == (name, 1)]
        assert [r["auroc"] for r in found] == pytest.approx([expected])


def test_a_detector_of_another_family_is_skipped_by_name(tiny):
    grid = {"families": ("vae", "diffusion"), "in_dist": ("digits",), "out_dist": ("faces",)}
    written = tiny("table-auroc", grid, detectors=("typicality", "msma"), group_sizes=(1,))
    assert "msma of vae-digits" in written["skipped"]
    served = [(r["model"], r["detector"]) for r in written["results"]["records"]]
    assert served == [("vae", "typicality"), ("diffusion", "typicality"), ("diffusion", "msma")]
    alone = tiny("table-auroc", grid, detectors=("msma",), group_sizes=(1,))
    assert {r["model"] for r in alone["results"]["records"]} == {"diffusion"} and len(alone["protocols"]) == 1
    with pytest.raises(NothingLeftError, match=r"nothing is left to score: .*msma of vae-digits"):
        tiny("table-auroc", {**grid, "families": ("vae",)}, detectors=("msma",))
