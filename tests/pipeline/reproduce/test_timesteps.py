"""The curve over timesteps on a tiny diffusion model, against a calculation by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from fisherscope.data import load_samples
from fisherscope.evaluation import out_dist_groups, split_in_dist
from fisherscope.features.gradients import gradient_norms
from fisherscope.models.base import load_model
from fisherscope.pipeline.reproduce.case import NothingLeftError

PUBLISHED = {"grid": "colour", "group_size": 2, "timesteps": [2], "auroc": {"typicality": [0.8]}}


def by_hand(model, in_dist, out_dist):
    """AUROC of the paper's method for groups of two."""
    split = split_in_dist(len(in_dist), 2, 0)
    norms = []
    for samples, rows in ((in_dist, split.fit), (in_dist, split.test), (out_dist, out_dist_groups(24, 2, 0).ravel())):
        x = torch.from_numpy(samples.x[rows]).float()
        found = gradient_norms(model, x, keys=samples.keys[rows], group_size=2, method="loop")
        norms.append(np.stack([v.double().numpy() for v in found.values()], axis=1))
    # The bias of attention keys has no gradient but round-off.
    kept = np.median(norms[0], axis=0) > 1e-12 * np.median(norms[0].sum(axis=1))
    logs = [np.log(n[:, kept]) for n in norms]
    mean, std = logs[0].mean(axis=0), logs[0].std(axis=0, ddof=1)
    scores = [-norm.logpdf(v, mean, std).sum(axis=1) for v in logs[1:]]
    return roc_auc_score(np.repeat([0, 1], [len(s) for s in scores]), np.concatenate(scores))


def test_the_curves(tiny, models, tmp_path):
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces", "nonfaces")}
    options = {"draws": 3, "draws_for": ["digits"], "draws_timesteps": [16], "published": PUBLISHED}
    written = tiny("figure-timesteps", grid, group_sizes=(2,), timesteps=(2, 16), options=options, limit=24)
    results = written["results"]
    in_dist = load_samples("digits", limit=48)
    for timestep, draws, names in ((2, 1, ("faces", "nonfaces")), (16, 3, ("faces",))):
        model = load_model(models / "diffusion-digits", settings={"timesteps": [timestep], "draws": draws})
        point = next(
            p
            for p in results["points"]
            if (p["timestep"], p["draws"], p["detector"]) == (timestep, draws, "layerwise-gaussian")
        )
        for name in names:
            expected = by_hand(model, in_dist, load_samples(name, limit=24, resize=(1, 8, 8)))
            assert point["pairs"][f"{name}[test]"]["estimate"] == pytest.approx(expected)
        figure, kind = ("colour-timesteps", "here") if draws == 1 else ("digits-draws", "3 draws")
        curve = next(
            c
            for c in results["curves"]
            if (c["figure"], c["kind"], c["detector"]) == (figure, kind, "layerwise-gaussian")
        )
        mean = curve["auroc"][curve["timesteps"].index(timestep)]["estimate"]
        assert mean == pytest.approx(np.mean([v["estimate"] for v in point["pairs"].values()]))
    paper = [c for c in results["curves"] if c["kind"] == "the paper"]
    assert [(c["timesteps"], c["auroc"][0]["estimate"]) for c in paper] == [([2], 0.8)]
    assert written["figures"] == ["colour-timesteps", "digits-draws"]
    assert (tmp_path / "figure-timesteps" / "digits-draws.png").is_file()


def test_the_published_curve_is_not_drawn_beside_another_group_size(tiny):
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces",)}
    options = {"published": PUBLISHED}
    written = tiny("figure-timesteps", grid, group_sizes=(1,), timesteps=(2,), options=options, limit=24)
    assert {c["kind"] for c in written["results"]["curves"]} == {"here"}


def test_a_detector_that_a_model_cannot_serve_has_no_curve_there(tiny):
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces", "nonfaces")}
    options = {"draws": 2, "draws_for": ["digits"], "draws_timesteps": [16]}
    detectors = ("waic", "layerwise-gaussian", "likelihood-ratio", "typicality")
    written = tiny("figure-timesteps", grid, detectors=detectors, timesteps=(2, 16), options=options, limit=24)
    assert {
        "waic of diffusion-digits, T = 2, draws = 1",
        "likelihood-ratio of diffusion-digits, T = 16, draws = 2",
    } <= (written["skipped"].keys())
    results = written["results"]
    for said in (results["curves"], results["points"]):
        assert {one["detector"] for one in said} == {"layerwise-gaussian", "typicality"}
    assert all(c["timesteps"] == [2, 16] for c in results["curves"] if c["kind"] == "here")
    with pytest.raises(NothingLeftError, match="waic of diffusion-digits"):
        tiny("figure-timesteps", grid, detectors=("waic",), timesteps=(2,), options=options, limit=24)
    with pytest.raises(NothingLeftError, match="nothing is left to score: no model has another set"):
        tiny("figure-timesteps", {**grid, "out_dist": ("digits",)}, timesteps=(2,), options=options, limit=24)


def test_a_timestep_beyond_the_model_is_skipped_by_name(tiny):
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces",)}
    written = tiny("figure-timesteps", grid, group_sizes=(2,), timesteps=(2, 999), options={}, limit=24)
    assert written["skipped"]["T = 999 of diffusion-digits"] == "it has 40 steps"
    assert {p["timestep"] for p in written["results"]["points"]} == {2}
