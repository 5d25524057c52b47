"""The page of the zoo, on three tiny models."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fisherscope.data import load_samples
from fisherscope.models.base import load_model
from fisherscope.models.files import read_head
from fisherscope.models.training import TrainSettings
from fisherscope.pipeline.training import train_on

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Three models that were trained for a moment."""
    root = tmp_path_factory.mktemp("zoo")
    digits, settings = load_samples("digits[train]"), TrainSettings(steps=2, batch_size=8)
    families = {
        "glow": {"steps": 1, "hidden": 4},
        "vae": {"hidden": 4, "latents": 2},
        "diffusion": {"channels": 16, "multipliers": (1,), "diffusion_steps": 20, "timesteps": (2,)},
    }
    for family, config in families.items():
        train_on(family, digits, settings, root / f"{family}-digits", config=config, storage=torch.float16)
    return root


def test_the_page(zoo, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("zoo")
    fingerprints = {path.name: read_head(path).fingerprint for path in zoo.iterdir()}
    undertrained = ("--undertrained", "vae-digits")
    script.main([*("--limit", "40"), *("--zoo", str(zoo)), *("--docs", str(tmp_path)), *undertrained])
    page = (tmp_path / "zoo.md").read_text()
    assert "Written by `python benchmarks/zoo.py --limit 40 --undertrained vae-digits`" in page and str(zoo) not in page
    found = dict(re.findall(r"`zoo:([\w-]+)`.*\| ([\d.]+) ± [\d.]+ \| 40 \| - \|", page))
    assert found.keys() == fingerprints.keys()
    for name, bits in found.items():
        model = load_model(zoo / name)  # checks the fingerprint
        assert read_head(zoo / name).fingerprint == fingerprints[name]
        assert model.card.bits_per_dim["test"] == pytest.approx(float(bits), abs=1e-3)
        assert np.asarray(Image.open(tmp_path / "images" / "zoo" / f"{name}.png")).shape == (110, 110)
    assert page.count("Undertrained") == 1
    digits = load_samples("digits[test]", limit=40)
    log_p = load_model(zoo / "glow-digits").log_prob(torch.from_numpy(digits.x), keys=digits.keys)
    assert float(found["glow-digits"]) == pytest.approx(float(-log_p.detach().mean()) / 64 / np.log(2), abs=1e-3)
