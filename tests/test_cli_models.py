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
        (("samples", "nowhere", "--out", "x.png"), "is no folder of a saved model"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, message, tmp_path):
    code, _, err = run(*arguments)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_setting_of_another_type_is_one_line(run):
    for setting in ("hidden=abc", "steps=1.5", "hidden=[1]"):
        code, _, err = run("train", "glow", *SMALL, "--steps", "2", "--set", setting, "--out", "m")
        assert code == 2 and "glow cannot be made with" in err and len(err.strip().splitlines()) == 1, err


FACTORIES = """
import torch
from fisherscope.models.base import make_model
def own():
    return make_model("vae", data_shape=(1, 4, 4), hidden=2, latents=2)
def plain():
    return torch.nn.Linear(2, 1), lambda model, x: -model(x)[:, 0].square()
"""


def test_info_and_samples_of_a_factory(run, tmp_path, monkeypatch):
    (tmp_path / "factories_of_mine.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = run("info", "factories_of_mine:own", "--json")
    assert code == 0 and json.loads(out)["family"] == "vae", err
    code, _, err = run("samples", "factories_of_mine:own", "--out", "grid.png", "-n", "4")
    assert code == 0 and (tmp_path / "grid.png").is_file(), err
    code, _, err = run("info", "factories_of_mine:plain")
    assert code == 2 and "makes a plain Linear; this command needs a GenerativeModel" in err


def test_token_ids_are_data_of_a_model_of_transformers(run, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs fisherscope[language]")
    sizes = {"vocab_size": 300, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 300, (12, 9)))
    options = ("--set", "window=9", "--out", "t.safetensors")
    code, _, err = run("extract", "gpt2", "--data", "tokens.npy", *options)
    assert code == 0, err
    (tmp_path / "a.txt").write_text("some words " * 20)
    code, _, err = run("extract", "gpt2", "--data", "a.txt", *options)
    assert code == 2 and "an array of token ids (N, T)" in err
