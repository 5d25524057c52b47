"""Draws of tiny models: the same for the same seed, kept, and measured as numpy measures them."""

import json

import numpy as np
import pytest

from fisherscope.core.errors import CardMismatchError, ModelError
from fisherscope.data import load_samples
from fisherscope.models.base import load_model
from fisherscope.models.glow import Glow
from fisherscope.pipeline.reproduce import drawn


def statistics(x):
    x = x.astype(float)
    steps = [np.abs(np.diff(x, axis=axis)).ravel() for axis in (2, 3)]
    return {
        "n": len(x),
        "mean": x.mean(),
        "deviation": x.std(),
        "least": x.min(),
        "greatest": x.max(),
        "saturated": ((x == 0) | (x == 255)).mean(),
        "total_variation": np.concatenate(steps).mean(),
    }


def test_the_numbers(tiny, models, monkeypatch):
    options = {"shown": 4, "test_images": True}
    grids = {"families": ("glow", "diffusion"), "in_dist": ("digits",)}
    written = tiny("figure-samples", grids, options=options)
    found = {m["model"]: m for m in written["results"]["models"]}
    for name, model in found.items():
        loaded = load_model(models / name)
        draws = np.concatenate([loaded.sample(32, seed=chunk << 32).numpy() for chunk in (0, 1)])[:40]
        assert len({x.tobytes() for x in draws}) == 40
        assert model["samples"] == pytest.approx(statistics(draws))
        assert model["test"] == pytest.approx(statistics(load_samples("digits", limit=40).x))
    assert set(found) == {"glow-digits", "diffusion-digits"} and written["figures"] == ["colour"]
    monkeypatch.setattr(drawn, "_draw", pytest.fail)  # the draws are found again
    assert tiny("figure-samples", grids, options=options)["results"] == written["results"]


def test_a_model_that_overflows_is_skipped_by_name(tiny, monkeypatch):
    def fail(*arguments, **settings):
        raise ModelError("sampling overflows")

    monkeypatch.setattr(Glow, "sample", fail)
    written = tiny("figure-samples", {"families": ("glow", "vae"), "in_dist": ("digits",)})
    assert written["skipped"]["samples of glow-digits"] == "sampling overflows"
    assert [m["model"] for m in written["results"]["models"]] == ["vae-digits"]


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    arrays = drawn.cached_arrays(tmp_path, {"a": 1}, lambda: {"x": np.arange(3)}, drawn.DRAWN)
    assert arrays["x"].tolist() == [0, 1, 2]
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    assert json.dumps({"a": 1}).replace('"', '\\"').encode() in content
    path.write_bytes(content.replace(b'{\\"a\\": 1}', b'{\\"a\\": 2}'))
    with pytest.raises(CardMismatchError, match=r"remove .*safetensors"):
        drawn.cached_arrays(tmp_path, {"a": 1}, lambda: {"x": np.arange(3)}, drawn.DRAWN)
