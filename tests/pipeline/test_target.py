"""What may be given as MODEL."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fisherscope.cli import main
from fisherscope.core.errors import ModelError, SettingError
from fisherscope.models import zoo
from fisherscope.models.base import make_model, model_fingerprint
from fisherscope.pipeline.fitting import fit
from fisherscope.pipeline.guard_files import load
from fisherscope.pipeline.target import as_target, load_target


@pytest.fixture
def root(tmp_path, glow, monkeypatch):
    """A zoo of one model."""
    glow.save(tmp_path / "zoo" / "glow-digits")
    monkeypatch.setattr(zoo, "zoo_root", lambda: tmp_path / "zoo")
    return tmp_path / "zoo"


def test_a_name_of_the_zoo(root, glow):
    target = load_target("zoo:glow-digits", dtype="float64")
    assert (target.name, target.dtype_name, target.data_shape) == ("zoo:glow-digits", "float64", (1, 8, 8))
    assert target.fingerprint() == model_fingerprint(glow) == as_target("zoo:glow-digits").fingerprint()


@pytest.mark.parametrize("text", ["zoo:gan-digits", "zoo:", "zoo:../zoo/glow-digits"])
def test_an_unknown_name_lists_the_zoo(root, text):
    with pytest.raises(ModelError, match=r"is not in the zoo; the zoo: zoo:glow-digits$"):
        load_target(text)


def test_what_is_nothing_tells_all_that_could_be(root):
    with pytest.raises(ModelError, match=r"no folder of a saved model, no zoo:NAME and no package\.module:factory"):
        load_target("glow-digits")


def test_a_guard_of_the_zoo_is_fitted_saved_and_loaded(root, digits, tmp_path):
    guard = fit("zoo:glow-digits", digits.select(range(80)), fpr=0.1)
    guard.save(tmp_path / "guard")
    assert guard.card.model_name == "zoo:glow-digits"
    assert np.array_equal(load(tmp_path / "guard").score(digits.x[:5]), guard.score(digits.x[:5]))


def test_every_command_takes_a_name_of_the_zoo(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fisherscope", *arguments])
        main()
        return capsys.readouterr().out

    run("extract", "zoo:glow-digits", "--data", "digits", "--limit", "6", "--out", "t.safetensors")
    run(
        "fit",
        "zoo:glow-digits",
        "--data",
        "digits",
        "--limit",
        "60",
        "--set",
        "init_seed=3",
        "--fpr",
        "0.1",
        "--out",
        "guard",
    )
    assert "of 6 novel" in run("score", "guard", "--data", "digits", "--limit", "6", "--out", "s.csv")
    run("samples", "zoo:glow-digits", "--out", "s.npy", "-n", "2")
    assert json.loads(run("info", "zoo:glow-digits", "--json"))["family"] == "glow"
    sets = ("--in-dist", "digits", "--out-dist", "digits[train]", "--limit", "60", "--allow-training-samples")
    assert "AUROC" in run("evaluate", "zoo:glow-digits", *sets, "--detector", "likelihood")
    for command in (
        ("extract", "--data", "digits", "--out", "x.safetensors"),
        ("fit", "--data", "digits", "--out", "x"),
        ("evaluate", "--in-dist", "digits", "--out-dist", "digits"),
    ):
        monkeypatch.setattr(sys, "argv", ["fisherscope", command[0], "zoo:gan-digits", *command[1:]])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert "'zoo:gan-digits' is not in the zoo; the zoo: zoo:glow-digits" in capsys.readouterr().err


def test_a_saved_pipeline_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="needs fisherscope[diffusers]")
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4, **blocks)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    target = load_target(tmp_path / "ddpm")
    assert (target.name, target.data_shape, target.value_range) == ("ddpm", (1, 8, 8), (0.0, 255.0))
    x = torch.zeros((2, 1, 8, 8), dtype=torch.uint8)
    assert torch.isfinite(target.module.log_prob(x)).all()


def test_a_saved_model_of_transformers(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs fisherscope[language]")
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=64, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "lm")
    target = load_target(tmp_path / "lm")
    assert (target.name, target.data_shape, target.value_range) == ("lm", (64,), (0.0, 29.0))
    assert load_target(tmp_path / "lm", settings={"window": 9}).data_shape == (9,)
    with pytest.raises(SettingError, match="no setting windows; its settings: window, start"):
        load_target(tmp_path / "lm", settings={"windows": 9})

    def from_hub(name, **options):
        asked.append((name, options["local_files_only"], options["use_safetensors"], options["trust_remote_code"]))
        return transformers.GPT2LMHeadModel(config)

    asked = []
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_hub)
    assert load_target("hub:owner/lm", settings={"window": 5}).name == "hub:owner/lm"
    assert asked == [("owner/lm", False, True, False)]


def test_settings_belong_to_saved_models(tmp_path):
    make_model("vae", data_shape=(1, 4, 4), hidden=2, latents=2).save(tmp_path / "vae")
    changed = load_target(tmp_path / "vae", settings={"importance_samples": 3})
    assert changed.module.config()["importance_samples"] == 3
    with pytest.raises(SettingError, match="cannot be changed after training"):
        load_target(tmp_path / "vae", settings={"latents": 3})
    with pytest.raises(SettingError, match="is no saved model, whose draws could be set"):
        load_target("package:factory", settings={"draws": 3})


def test_a_folder_without_a_model(tmp_path: Path):
    with pytest.raises(ModelError, match=r"holds no model\.json, nor the model_index\.json of a diffusers pipeline"):
        load_target(tmp_path)


def test_a_model_without_a_log_p():
    with pytest.raises(ModelError, match="Linear has no log_prob method"):
        as_target(torch.nn.Linear(2, 2))
    vae = make_model("vae", data_shape=(1, 4, 4), hidden=2, latents=2)
    with pytest.raises(ModelError, match="no parameter that requires a gradient"):
        as_target(vae.requires_grad_(False))


def test_a_factory_is_called_without_arguments(tmp_path, monkeypatch):
    (tmp_path / "own_factories.py").write_text("def needs(width): ...\nWIDTH = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"own_factories:needs is to be called without arguments .*'width'"):
        load_target("own_factories:needs")
    with pytest.raises(ModelError, match="own_factories:WIDTH is int, expected a function"):
        load_target("own_factories:WIDTH")
