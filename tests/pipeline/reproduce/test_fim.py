"""Blocks of the Fisher information matrix of tiny models, against gradients of one sample at a time."""

import numpy as np
import pytest
import torch

from fisherscope.models.base import load_model
from fisherscope.pipeline.reproduce import fim as runner
from fisherscope.pipeline.reproduce.case import NothingLeftError
from fisherscope.report.fim import KINDS, kinds_of_entries, magnitude_histogram


def by_hand(model, drawn, entries):
    """F of the chosen entries."""
    parameters = [dict(model.named_parameters())[name] for name in entries]
    rows = []
    for x in drawn:
        gradients = torch.autograd.grad(model.log_prob(x[None].float()).sum(), parameters)
        rows.append(np.concatenate([g.flatten()[i].numpy() for g, i in zip(gradients, entries.values(), strict=True)]))
    s = np.array(rows, dtype=float)
    return s.T @ s / len(s)


def test_the_numbers(tiny, models, monkeypatch):
    grids = {"families": ("glow", "diffusion"), "in_dist": ("digits",)}
    options = {"n_statistics": 3, "entries": 5}
    written = tiny("figure-fim", grids, timesteps=(4,), options=options)
    assert len(written["results"]["models"]) == 2
    for found in written["results"]["models"]:
        assert found["samples"] == 40 and 2 <= len(found["entries"]) <= 3
        assert all(1 <= len(index) <= 5 for index in found["entries"].values())
        base = load_model(models / found["model"])
        drawn = torch.cat([base.sample(32, seed=chunk << 32) for chunk in (0, 1)])[:40]
        settings = {"timesteps": [4]} if found["family"] == "diffusion" else None
        entries = {name: torch.tensor(index) for name, index in found["entries"].items()}
        matrix = by_hand(load_model(models / found["model"], settings=settings), drawn, entries)
        assert found["diagonal"] == pytest.approx(np.diag(matrix), rel=1e-3)
        scale = np.sqrt(np.diag(matrix))
        normalised = matrix / np.outer(scale, scale)
        below = np.tri(len(matrix), k=-1, dtype=bool)
        assert found["normalised_below_diagonal"] == pytest.approx(normalised[below], abs=2e-3)
        layer = np.repeat(np.arange(len(entries)), [len(i) for i in entries.values()])
        same = layer[:, None] == layer
        for kind, mask in (("same layer", same & below), ("different layers", ~same & below)):
            assert found["mean_absolute"][kind] == pytest.approx(np.abs(normalised)[mask].mean(), abs=2e-3)
        assert 0 < found["mean_absolute_shuffled"] < 0.5
        assert found["diagonal_noise"].keys() == entries.keys() and min(found["diagonal_noise"].values()) >= 0
        assert all(sum(shares) == pytest.approx(100) for shares in found["histogram"]["percent"].values())
    assert written["figures"][:2] == ["colour-glow-digits-blocks", "colour-glow-digits-entries"]
    monkeypatch.setattr(runner, "gradient_pass", None)
    assert tiny("figure-fim", grids, timesteps=(4,), options=options)["results"] == written["results"]


def test_layers_without_a_gradient_are_left_out(tiny, models):
    model = load_model(models / "diffusion-digits")
    bias = next(name for name, _ in model.named_parameters() if "bias" in name)
    with pytest.raises(NothingLeftError, match="fewer than two of the entries of"):
        tiny(
            "figure-fim",
            {"families": ("diffusion",), "in_dist": ("digits",)},
            timesteps=(4,),
            limit=2,
            options={"layers": [bias], "entries": 1},
        )


def test_kinds_and_magnitudes():
    kinds = kinds_of_entries([2, 1])
    assert kinds.keys() == KINDS.keys()
    assert [int(kinds[k].sum()) for k in KINDS] == [3, 1, 2]
    matrix = np.array([[100.0, -1.0, 0.0], [-1.0, 10.0, 1e-12], [0.0, 1e-12, 1.0]])
    edges, shares = magnitude_histogram(matrix, [2, 1])
    assert (edges[0], edges[-1]) == (-6, 2)
    assert shares["different layers"][0] == 100 and shares["same layer"][np.searchsorted(edges, 0.0)] == 100
