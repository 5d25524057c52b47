"""The commands about models."""

import json

import numpy as np
import pytest

from fisherscope.models.base import load_model


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    """Run a command line in an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return run


SMALL = ("--data", "digits", "--limit", "80", "--batch-size", "8")


def test_every_image_family_is_trained_by_one_command(run):
    for family, settings in {
        "vae": ("--hidden", "4", "--set", "latents=3", "--set", "likelihood=gaussian"),
        "pixelcnn": ("--hidden", "4", "--set", "layers=1"),
        "diffusion": ("--set", "channels=16", "--set", "multipliers=[1]", "--set", "timesteps=[2,5]"),
    }.items():
        code, out, err = run("train", family, *SMALL, "--steps", "2", "--out", family, *settings)
        assert code == 0, err
        assert f"{family} after 2 steps, bits/dim: validation" in out
    assert load_model("vae").config()["likelihood"] == "gaussian"
    assert load_model("diffusion").config()["timesteps"] == [2, 5]


def test_a_configuration_with_options_in_its_place(run, tmp_path):
    (tmp_path / "c.toml").write_text(
        'family = "glow"\ndata = "digits"\nlimit = 80\n[model]\nsteps = 1\nhidden = 4\n'
        "[training]\nminutes = 10\nbatch_size = 8\n"
    )
    code, _, err = run("train", "--config", "c.toml", "--steps", "2", "--hidden", "6", "--half", "--out", "m")
    assert code == 0, err
    model = load_model("m")
    assert model.config()["hidden"] == 6 and model.config()["steps"] == 1 and model.card.steps == 2
    code, _, err = run("train", "glow", "--config", "c.toml", "--out", "n")
    assert code == 2 and "the file names the family" in err


def test_info_and_samples(run):
    run("train", "glow", *SMALL, "--steps", "2", "--flow-steps", "1", "--hidden", "4", "--out", "m")
    code, out, _ = run("info", "m", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["card"]["steps"] == 2 and facts["train_samples"] == 80
    code, out, _ = run("info", "m")
    assert code == 0 and "scales.0.steps.0.actnorm.shift  4x1x1" in out
    code, out, err = run("samples", "m", "--out", "grid.png", "-n", "4")
    assert code == 0, err
    run("samples", "m", "--out", "grid.npy", "-n", "3")
    assert np.load("grid.npy").shape == (3, 1, 8, 8)


def test_the_zoo_is_listed(run):
    code, out, _ = run("zoo", "--json")
    assert code == 0 and all({"name", "family", "parameters", "card"} <= set(e) for e in json.loads(out))
    assert run("zoo")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--out", "m"), "family and data missing"),
        (("train", "glow", "--data", "digits", "--steps", "1", "--set", "hidden", "--out", "m"), "expected NAME=JSON"),
        (("train", "glow", "--data", "digits", "--steps", "1", "--set", "width=3", "--out", "m"), "no setting width"),
        (("train", "gan", "--data", "digits", "--steps", "1", "--out", "m"), "unknown model family 'gan'"),
        (("train", "glow", "--data", "digits", "--out", "m"), "give either steps or minutes"),
        (("train", "--config", "none.toml", "--out", "m"), "none.toml does not exist"),
        (("info", "zoo:gan-digits"), "is not in the zoo"),
        (("samples", "nowhere", "--out", "x.png"), "is not a saved model"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, message, tmp_path):
    code, _, err = run(*arguments)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
