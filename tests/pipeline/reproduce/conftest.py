"""A folder of tiny models of 8x8 images, and a way to run an experiment on them."""

import json
import sys
from pathlib import Path

import pytest
import torch

from fisherscope.models.base import make_model
from fisherscope.pipeline.reproduce.case import RunSettings
from fisherscope.pipeline.reproduce.experiments import read_experiment
from fisherscope.pipeline.reproduce.run import reproduce

sys.path.insert(0, str(Path(__file__).parent))

SETS = ["digits", "faces", "nonfaces"]


def moved(family, shape=(1, 8, 8), **config):
    """A tiny untrained model, off its initial values."""
    model = make_model(family, data_shape=shape, **config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def models(tmp_path_factory, make_glow):
    """Glow, VAE and diffusion of digits, a Glow of faces, a Glow and a VAE of colour patches of china."""
    root = tmp_path_factory.mktemp("models")
    make_glow().save(root / "glow-digits")
    make_glow(hidden=6).save(root / "glow-faces")
    moved("vae", latents=4, hidden=8).save(root / "vae-digits")
    moved("vae", (3, 8, 8), latents=4, hidden=8).save(root / "vae-china-rgb")
    moved("glow", (3, 8, 8), levels=2, steps=1, hidden=4).save(root / "glow-china-rgb")
    diffusion = moved("diffusion", channels=16, multipliers=(1,), diffusion_steps=40, timesteps=(4, 16))
    diffusion.save(root / "diffusion-digits")
    return root


@pytest.fixture
def settings(models, tmp_path):
    return RunSettings(models=models, tables=tmp_path / "tables", replicates=50)


@pytest.fixture
def tiny(settings, tmp_path):
    """Return a function that runs an experiment of the package on other grids and returns what it wrote."""

    def run(name, grids=(), **changes):
        experiment = read_experiment(name)
        grid = experiment.grids[0].model_copy(update={"in_dist": tuple(SETS), "out_dist": None, **dict(grids)})
        experiment = experiment.model_copy(update={"grids": (grid,), "limit": 40, **changes})
        made = reproduce(name, experiment, settings, tmp_path / name, command="fisherscope reproduce")
        return json.loads(made.files[-1].read_text())

    return run
