"""The page of the zoo, on three tiny models."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fisherscope.core.errors import ModelError
from fisherscope.data import load_samples
from fisherscope.models.base import load_model
from fisherscope.models.files import read_head, write_head
from fisherscope.models.training import TrainSettings
from fisherscope.pipeline.training import train_on


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


def test_the_page(zoo, tmp_path, import_script):
    script = import_script("zoo")
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
        assert np.asarray(Image.open(tmp_path / "images" / "zoo" / f"{name}.png")).shape == (106, 106)
    assert page.count("Undertrained") == 1
    digits = load_samples("digits[test]", limit=40)
    log_p = load_model(zoo / "glow-digits").log_prob(torch.from_numpy(digits.x), keys=digits.keys)
    assert float(found["glow-digits"]) == pytest.approx(float(-log_p.detach().mean()) / 64 / np.log(2), abs=1e-3)


def test_figures_are_found_again_until_the_model_or_the_settings_change(zoo, tmp_path, monkeypatch, import_script):
    script = import_script("zoo")
    measured = []
    measure = script.measure
    monkeypatch.setattr(
        script, "measure", lambda folder, options: measured.append(folder.name) or measure(folder, options)
    )

    def run(*more):
        measured.clear()
        script.main(["--limit", "8", "--zoo", str(zoo), "--docs", str(tmp_path), *more])
        return sorted(measured), (tmp_path / "zoo.md").read_text()

    first, page = run()
    assert first == sorted(path.name for path in zoo.iterdir())
    assert run() == ([], page)
    assert run("--latents", "2")[0] == first
    assert run("--latents", "2", "--anew")[0] == first
    head = read_head(zoo / "vae-digits")
    write_head(zoo / "vae-digits", replace(head, fingerprint="0" * len(head.fingerprint)))
    with pytest.raises(ModelError, match="does not belong"):  # it was asked for again, and is not what its head says
        run("--latents", "2")
    write_head(zoo / "vae-digits", head)
