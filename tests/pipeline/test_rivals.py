"""Rivals of the gradient on a whole model: from samples to calibrated verdicts, saved and loaded."""

import numpy as np
import pytest
import torch

import fisherscope
from fisherscope.core.errors import DataError
from fisherscope.models.base import make_model
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate

ON_GLOW = (
    "input-complexity-png",
    "input-complexity-zlib",
    "typicality-fisher",
    "typicality-fisher@diagonal",
    "dose-kde",
    "dose-svm",
    "local-intrinsic-dimension",
)


def require_a_round_trip(model, detector, samples, folder, **more):
    """Fit, judge, save, load and judge again."""
    guard = fisherscope.fit(model, samples.select(range(120)), detector=detector, fpr=0.05, **more)
    some = samples.select(range(120, 150))
    scores = guard.score(some)
    assert scores.shape == (30,) and np.ptp(scores) > 0
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(guard.score(some.select(order)), scores[order], rtol=1e-3, atol=1e-3)
    guard.save(folder)
    np.testing.assert_array_equal(fisherscope.load(folder).score(some), scores)


@pytest.fixture(scope="module")
def diffusion():
    return moved("diffusion", channels=16, multipliers=(1,), diffusion_steps=40, timesteps=(4, 16))


@pytest.fixture(scope="module")
def vae():
    return moved("vae", latents=4, hidden=8)


def moved(family, **config):
    """A tiny model of 8x8 images, off its initial values."""
    model = make_model(family, data_shape=(1, 8, 8), **config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model


@pytest.mark.parametrize(
    "detector", ["msma", "diffpath-6d", "scoped", "ddpm-ood-mse-ssim", "dose-kde", "typicality-fisher"]
)
def test_guards_on_a_diffusion_model(diffusion, digits, tmp_path, detector):
    require_a_round_trip(diffusion, detector, digits, tmp_path)


@pytest.mark.parametrize("detector", ["likelihood-regret", "dose-svm", "input-complexity-webp"])
def test_guards_on_a_vae(vae, digits, tmp_path, detector):
    require_a_round_trip(vae, detector, digits, tmp_path)


@pytest.mark.parametrize("detector", ON_GLOW)
def test_guards_on_a_flow(glow, digits, tmp_path, detector):
    require_a_round_trip(glow, detector, digits, tmp_path)


def test_evaluation_on_a_flow(target, digits, tmp_path):
    rng = np.random.default_rng(0)
    out = as_batches(rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8))
    settings = EvaluationSettings(ON_GLOW, group_sizes=(1, 2), replicates=40, tables=tmp_path)
    done = evaluate(target, as_batches(digits.select(range(160)), target), [out], settings)
    assert {r.detector for r in done.records} == set(ON_GLOW)


def test_text_and_rows():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 3, (160, 16)).astype(np.uint8) + 97
    language = make_model("language", data_shape=(16,), width=8, layers=1, heads=1).eval()
    guard = fisherscope.fit(language, words[:120], detector="input-complexity-zlib", fpr=0.05)
    noise = rng.integers(0, 256, (40, 16)).astype(np.uint8)
    # The untrained model finds all windows about equally likely, so the code's length decides: short is novel.
    assert np.mean(guard.score(words[120:])) > np.mean(guard.score(noise))
    pytest.importorskip("zuko")
    rows = rng.normal(size=(160, 3))
    flow = make_model("tabular", data_shape=(3,), transforms=1, hidden=(8,)).eval()
    for detector in ("dose-kde", "local-intrinsic-dimension", "typicality-fisher"):
        guard = fisherscope.fit(flow, rows[:120].astype(np.float32), detector=detector, fpr=0.05)
        far, near = guard.score(8 * rows[120:].astype(np.float32)), guard.score(rows[120:].astype(np.float32))
        assert np.median(far) > np.median(near)


def test_floats_have_no_code_length(glow, digits):
    with pytest.raises(DataError, match="expected one array of whole numbers from 0 to 255"):
        fisherscope.fit(glow, digits.x[:120].astype(np.float32), detector="input-complexity-png", fpr=0.05)
