"""Probes of a noise predictor against predictors whose score is known in closed form."""

import math

import numpy as np
import pytest
import torch

from fisherscope.core.errors import ModelError
from fisherscope.core.keys import sample_keys
from fisherscope.features.denoising import PathStatistics, ScoreCurvature, ScoreNorms
from fisherscope.features.extractors import Request
from fisherscope.models.denoising import Denoiser
from fisherscope.models.denoising_probes import (
    msma_timesteps,
    path_statistics,
    path_timesteps,
    scoped_timesteps,
    score_curvature,
    score_norms,
)
from fisherscope.models.diffusion import Diffusion
from fisherscope.models.noise import normal_noise
from fisherscope.models.schedule import make_schedule

SHAPE = (1, 4, 4)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
KEYS = sample_keys(IMAGES)
X = torch.from_numpy(IMAGES).double()
SCHEDULE = make_schedule("linear", 1000)


def normal_data(variance):
    """The exact predictor for images N(0, variance I): x_t ~ N(0, v_t I), eps^ = sqrt(1 - abar) x_t / v_t."""

    def predict(noisy, t):
        abar = torch.from_numpy(SCHEDULE.abar).to(noisy)[t.long()].reshape(-1, 1, 1, 1)
        return (1 - abar).sqrt() * noisy / (abar * variance + 1 - abar)

    return Denoiser(predict, SCHEDULE, SHAPE)


def test_noise_levels_of_msma():
    timesteps = msma_timesteps(SCHEDULE)
    sigma = [math.sqrt((1 - SCHEDULE.abar[t]) / SCHEDULE.abar[t]) for t in timesteps]
    assert len(timesteps) == 10 and list(timesteps) == sorted(timesteps)
    np.testing.assert_allclose(sigma, np.geomspace(0.02, 2, 10), rtol=0.15)
    assert 1 <= len(msma_timesteps(make_schedule("linear", 5))) <= 5


def test_score_norms_of_a_normal_density():
    got = score_norms(normal_data(0.25), X, (3, 400))
    v = (IMAGES / 127.5 - 1).reshape(6, -1)
    for j, t in enumerate((3, 400)):
        sigma2 = (1 - SCHEDULE.abar[t]) / SCHEDULE.abar[t]
        score = -v / (0.25 + sigma2)  # of N(0, (0.25 + sigma^2) I) at x itself
        np.testing.assert_allclose(got[:, j], math.sqrt(sigma2) * np.linalg.norm(score, axis=1), rtol=1e-10)


def test_path_of_a_constant_prediction():
    denoiser = Denoiser(lambda noisy, t: (t / 100).reshape(-1, 1, 1, 1).expand_as(noisy), SCHEDULE, SHAPE)
    timesteps = path_timesteps(SCHEDULE, 10)
    assert timesteps == tuple(range(1, 1000, 100))
    got = path_statistics(denoiser, X, timesteps)
    eps = np.array(timesteps) / 100
    want = [16 * (eps**p).sum() for p in (1, 2, 3)] + [16 * ((np.diff(eps) * 10) ** p).sum() for p in (1, 2, 3)]
    np.testing.assert_allclose(got, np.tile(want, (6, 1)), rtol=1e-10)


def test_path_of_a_normal_density_follows_its_closed_form():
    # eps^ is linear in x_t, so each step multiplies the image by a number.
    timesteps = (1, 300, 900)
    factor, factors = 1.0, []
    for i, t in enumerate(timesteps):
        abar = SCHEDULE.abar[t]
        eps = math.sqrt(1 - abar) / (abar * 0.25 + 1 - abar) * factor
        factors.append(eps)
        if i < 2:
            following = SCHEDULE.abar[timesteps[i + 1]]
            clean = (factor - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
            factor = math.sqrt(following) * clean + math.sqrt(1 - following) * eps
    v = (IMAGES / 127.5 - 1).reshape(6, -1)
    got = path_statistics(normal_data(0.25), X, timesteps)
    rates = np.diff(factors) * 3
    for p in (1, 2, 3):
        moment = (v**p).sum(1)
        np.testing.assert_allclose(got[:, p - 1], moment * sum(f**p for f in factors), rtol=1e-9)
        np.testing.assert_allclose(got[:, p + 2], moment * (rates**p).sum(), rtol=1e-9)


def test_score_against_curvature_of_a_normal_density():
    # s = x_t / v_t and its Jacobian is I / v_t, so T = ||x_t||^2 / (v_t ||probe||^2).
    assert scoped_timesteps(SCHEDULE) == (1, 300)
    got = score_curvature(normal_data(0.25), X, KEYS, 5, (1, 300))
    like = normal_data(0.25)
    for j, t in enumerate((1, 300)):
        abar = SCHEDULE.abar[t]
        eps = normal_noise(KEYS, SHAPE, seed=5, stream=like.stream(0, t), like=X)
        probe = normal_noise(KEYS, SHAPE, seed=5, stream=like.stream(1, t), like=X)
        noisy = math.sqrt(abar) * (X / 127.5 - 1) + math.sqrt(1 - abar) * eps
        variance = abar * 0.25 + 1 - abar
        want = noisy.flatten(1).square().sum(1) / (variance * probe.flatten(1).square().sum(1))
        torch.testing.assert_close(got[:, j], want, rtol=1e-10, atol=0)


def test_blocks_of_a_unet_do_not_depend_on_the_batch():
    model = Diffusion(SHAPE, channels=16, multipliers=(1,), diffusion_steps=40, timesteps=(4,)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    for kind, block in (
        (ScoreNorms, "score_norms"),
        (PathStatistics, "path_statistics"),
        (ScoreCurvature, "score_curvature"),
    ):
        extractor = kind()
        whole = extractor.extract(Request(model, None, IMAGES, KEYS, 2))[block]
        alone = extractor.extract(Request(model, None, IMAGES[2:4], KEYS[2:4], 2))[block]
        assert whole.shape == (3, 2, len(extractor.columns(model)[block]))
        np.testing.assert_allclose(alone[0], whole[1], rtol=1e-9)
        assert all(p.grad is None for p in model.parameters())


def test_other_models_are_refused():
    request = Request(torch.nn.Linear(2, 2), None, IMAGES, KEYS)
    with pytest.raises(ModelError, match="Linear is no diffusion model"):
        ScoreNorms().extract(request)
