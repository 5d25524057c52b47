"""Further models beside the one that is judged: what they fill, what is refused, and how they are trained."""

import numpy as np
import pytest
import torch

import fisherscope
from fisherscope.cli import app
from fisherscope.config import TrainConfig, TrainingTable
from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.features.companions import Companion
from fisherscope.models.base import load_model, model_fingerprint
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.companions import as_companions, load_companions
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.pipeline.extraction import ExtractSettings, extract_table
from fisherscope.pipeline.perturbation import perturb_samples
from fisherscope.pipeline.target import Target
from fisherscope.pipeline.training import train_from_config


@pytest.fixture(scope="module")
def others(make_glow):
    """Two models like the tiny Glow, with other weights."""
    found = []
    for seed in (1, 2):
        glow = make_glow()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in glow.parameters():
                p += 0.02 * torch.randn(p.shape, generator=generator)
        found.append(glow)
    return found


def test_blocks_are_the_models_own_log_probs(target, others, digits):
    companions = as_companions({"background": others[0], "b": others[1], "c": others[0]}, target)
    settings = ExtractSettings(2, seed=3, companions=companions)
    some = digits.select(range(6))
    table = extract_table(target, as_batches(some), ["ensemble_log_p", "background_log_p"], settings)
    with torch.no_grad():
        log_p = [m.log_prob(torch.from_numpy(some.x), seed=3, keys=some.keys) for m in (target.module, *others)]
    ensemble = torch.stack([log_p[0], log_p[2], log_p[1]], 1).reshape(3, 2, 3)
    np.testing.assert_allclose(table.block("ensemble_log_p"), ensemble, rtol=1e-6)
    np.testing.assert_allclose(table.block("background_log_p"), log_p[1].reshape(3, 2), rtol=1e-6)
    assert table.columns["ensemble_log_p"] == ("model", "b", "c")
    features = table.card.settings["features"]
    assert features["background_log_p"] == {"background": model_fingerprint(others[0])}
    assert features["ensemble_log_p"]["b"] == model_fingerprint(others[1])


@pytest.mark.parametrize("detector", ["waic", "likelihood-ratio"])
def test_a_guard_saves_its_companions(glow, others, digits, tmp_path, detector):
    companions = {"background": others[0], "second": others[1]}
    guard = fisherscope.fit(glow, digits.select(range(100)), detector=detector, fpr=0.05, companions=companions)
    guard.save(tmp_path)
    scores = guard.score(digits.select(range(100, 120)))
    np.testing.assert_array_equal(fisherscope.load(tmp_path).score(digits.select(range(100, 120))), scores)
    with pytest.raises(CardMismatchError, match="companion background"):
        fisherscope.load(tmp_path, companions={"background": others[1]})
    with pytest.raises(SettingError, match="the guard has no companion backgroud; it has background"):
        fisherscope.load(tmp_path, companions={"backgroud": others[0]})


def test_a_companion_of_the_users_own_is_asked_for(glow, digits, tmp_path):
    own = torch.nn.Linear(64, 2)
    background = Target(own, lambda m, x: -m(x.flatten(1) / 255).square().sum(1), "own")
    some = digits.select(range(100))
    guard = fisherscope.fit(glow, some, detector="likelihood-ratio", fpr=0.05, companions={"background": background})
    guard.save(tmp_path)
    with pytest.raises(ModelError, match="'background' is a module of your own"):
        fisherscope.load(tmp_path)
    loaded = fisherscope.load(tmp_path, companions={"background": background})
    np.testing.assert_array_equal(loaded.score(some), guard.score(some))


def test_a_missing_companion_says_how_to_get_one(target, digits):
    data = as_batches(digits.select(range(4)))
    with pytest.raises(ModelError, match="train one on perturbed samples"):
        extract_table(target, data, ["background_log_p"])
    settings = ExtractSettings(companions=(Companion("background", target.module),))
    with pytest.raises(ModelError, match="at least one further model"):
        extract_table(target, data, ["ensemble_log_p"], settings)


def test_refused_companions(target, make_glow):
    with pytest.raises(SettingError, match=r"a companion is called '\.\./x'"):
        as_companions({"../x": target}, target)
    with pytest.raises(ModelError, match="has dtype_name float64, the model float32"):
        as_companions({"b": make_glow(torch.float64)}, target)
    with pytest.raises(SettingError, match="--companion b: expected NAME=MODEL"):
        load_companions(["b"])


def test_training_samples_of_a_companion_are_refused(target, others, digits, monkeypatch):
    data = as_batches(digits.select(range(150)))
    monkeypatch.setattr(others[0], "train_keys", np.sort(data.keys[:5]))
    settings = EvaluationSettings(("likelihood-ratio",), companions=as_companions({"background": others[0]}, target))
    with pytest.raises(DataError, match="companion 'background'"):
        evaluate(target, data, [as_batches(255 - digits.x[:50])], settings)
    with pytest.raises(DataError, match="companion 'background'"):
        fisherscope.fit(target, data, detector="likelihood-ratio", fpr=0.05, companions={"background": others[0]})


def test_perturbed_samples(digits):
    noisy = perturb_samples(digits, 0.25, seed=4)
    changed = noisy.x != digits.x
    assert noisy.x.dtype == np.uint8 and noisy.name.endswith("perturbed 0.25")
    np.testing.assert_array_equal(noisy.keys, digits.keys)
    n = changed.size  # a replaced value equals its original once in 256
    assert abs(changed.mean() - 0.25 * 255 / 256) < 5 * np.sqrt(0.25 * 0.75 / n)
    levels = np.bincount(perturb_samples(digits, 1.0).x.ravel(), minlength=256)
    assert np.abs(levels - n / 256).max() < 6 * np.sqrt(n / 256)
    order = np.random.default_rng(0).permutation(len(digits))
    np.testing.assert_array_equal(perturb_samples(digits.select(order), 0.25, seed=4).x, noisy.x[order])
    assert (perturb_samples(digits, 0.25, seed=5).x != noisy.x).any()
    for rate in (0.0, 1.5):
        with pytest.raises(SettingError, match="expected a share of values above 0 and at most 1"):
            perturb_samples(digits, rate)
    with pytest.raises(DataError, match="only 8-bit samples"):
        perturb_samples(digits.from_array(digits.x / 255, digits.ids, "floats"), 0.1)


def test_a_background_model_is_trained_from_a_configuration(tmp_path, digits):
    config = TrainConfig(
        family="glow",
        data="digits",
        perturb=0.2,
        model={"levels": 1, "steps": 1, "hidden": 4},
        training=TrainingTable(steps=2, batch_size=8),
    )
    train_from_config(config, tmp_path)
    background = load_model(tmp_path)
    assert "perturbed 0.2" in background.card.data
    assert not np.isin(digits.keys, background.train_keys).any()


def test_the_command_line_takes_companions(glow, others, digits, tmp_path):
    for name, model in (("model", glow), ("bg", others[0]), ("more", others[1])):
        model.save(tmp_path / name)
    np.save(tmp_path / "in.npy", digits.x[:120])
    np.save(tmp_path / "out.npy", 255 - digits.x[120:180])
    command = ["evaluate", str(tmp_path / "model"), "--in-dist", str(tmp_path / "in.npy")]
    command += ["--out-dist", str(tmp_path / "out.npy"), "--detector", "waic", "--detector", "likelihood-ratio"]
    command += ["--companion", f"background={tmp_path / 'bg'}", "--companion", f"second={tmp_path / 'more'}"]
    app([*command, "--json", str(tmp_path / "r.json")], standalone_mode=False)
    text = (tmp_path / "r.json").read_text()
    assert '"waic"' in text and '"likelihood-ratio"' in text
