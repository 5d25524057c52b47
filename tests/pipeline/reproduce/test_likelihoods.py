"""Histograms of bits/dim on tiny models, against the models' own log p."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fisherscope.core.errors import DataError
from fisherscope.data import load_samples
from fisherscope.models.base import load_model
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.experiments import narrow, read_experiment


@torch.no_grad()
def bits(model, name):
    samples = load_samples(name, limit=40, resize=(1, 8, 8))
    log_p = model.log_prob(torch.from_numpy(samples.x), keys=samples.keys)
    return -log_p.double().numpy() / (64 * math.log(2))


def test_the_numbers(tiny, models, tmp_path):
    written = tiny("figure-likelihoods", {"families": ("glow", "diffusion")}, timesteps=(4, 16))
    found = {(m["model"], m["timestep"]): m for m in written["results"]["models"]}
    assert set(found) == {
        ("glow-digits", None),
        ("glow-faces", None),
        ("diffusion-digits", 4),
        ("diffusion-digits", 16),
    }
    for (name, timestep), model in found.items():
        changes = {} if timestep is None else {"timesteps": [timestep]}
        loaded = load_model(models / name, settings=changes)
        own = bits(loaded, model["in_dist"])
        assert model["sets"].keys() == {"digits[test]", "faces[test]", "nonfaces[test]"}
        for key, said in model["sets"].items():
            direct = bits(loaded, key.removesuffix("[test]"))
            assert said["mean"] == pytest.approx(direct.mean(), rel=1e-5)
            assert said["quantiles"] == pytest.approx(np.quantile(direct, [0.05, 0.25, 0.5, 0.75, 0.95]), rel=1e-5)
            percent, edges = model["histogram"]["percent"][key], model["histogram"]["edges"]
            assert sum(percent) == pytest.approx(100)
            assert np.dot(percent, np.convolve(edges, [0.5, 0.5], "valid")) / 100 == pytest.approx(
                direct.mean(), abs=(edges[1] - edges[0]) / 2
            )
            if "more_likely" in said:
                labels = np.repeat([1, 0], [len(own), len(direct)])
                expected = roc_auc_score(labels, np.concatenate([own, direct]))
                assert said["more_likely"]["estimate"] == pytest.approx(expected)
                assert said["more_likely"]["low"] < expected < said["more_likely"]["high"]
    assert {"colour-glow", "colour-diffusion-t4", "colour-diffusion-t16"} == set(written["figures"])
    assert (tmp_path / "figure-likelihoods" / "colour-glow.png").stat().st_size > 10_000


def test_sets_alone_need_no_model(settings):
    experiment = read_experiment("figure-likelihoods")
    grid = experiment.grids[0].model_copy(update={"families": (), "in_dist": ("digits", "faces", "missing")})
    experiment = experiment.model_copy(update={"grids": (grid,)})
    context = Context(experiment, settings)
    assert context.sets == {"colour": ("digits", "faces")}
    assert context.ledger.skipped == {"set missing": "not in the data root and not bundled"}
    assert Context(narrow(experiment, sets=["faces"]), settings).sets == {"colour": ("faces",)}
    nothing = experiment.model_copy(update={"grids": (grid.model_copy(update={"in_dist": ("missing",)}),)})
    with pytest.raises(DataError, match="nothing is left to do: set missing"):
        _ = Context(nothing, settings).sets
