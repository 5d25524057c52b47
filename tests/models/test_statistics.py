"""Statistics beside log p: the parts of each family's bound, against what they add up to."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fisherscope.core.keys import sample_keys
from fisherscope.features.extractors import Request
from fisherscope.features.statistics import Statistics
from fisherscope.models.base import make_model
from fisherscope.models.noise import normal_noise
from fisherscope.models.protocols import HasStatistics

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
KEYS = sample_keys(IMAGES)


def moved(family, **config):
    """A tiny model, off its initial values."""
    model = make_model(family, **config).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model


def diffusion(**config):
    small = {"data_shape": (1, 8, 8), "channels": 16, "multipliers": (1,), "diffusion_steps": 20, "timesteps": (2, 9)}
    return moved("diffusion", **(small | config))


def test_glow_splits_log_p_into_latents_and_determinant():
    glow = moved("glow", data_shape=(1, 8, 8), levels=2, steps=1, hidden=4)
    x = torch.from_numpy(IMAGES).double()
    parts = glow.statistics(x, keys=KEYS, seed=3)
    latents, log_det = glow.encode(glow.dequantise(x, keys=KEYS, seed=3))
    normal = sum(Normal(0, 1).log_prob(z).flatten(1).sum(1) for z in latents)
    torch.testing.assert_close(parts[:, 0], normal, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts[:, 1], log_det - 64 * math.log(256), rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.sum(1), glow.log_prob(x, keys=KEYS, seed=3))


def test_a_tabular_flow_does_too():
    pytest.importorskip("zuko")
    flow = moved("tabular", data_shape=(3,), transforms=1, hidden=(8,))
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = flow.statistics(x)
    z = flow.flow().transform(x)
    torch.testing.assert_close(parts[:, 0], Normal(0, 1).log_prob(z).sum(1))
    jacobians = [torch.autograd.functional.jacobian(flow.flow().transform, row) for row in x]
    torch.testing.assert_close(parts[:, 1], torch.stack([torch.linalg.slogdet(j)[1] for j in jacobians]))


def test_a_vaes_five():
    vae = moved("vae", data_shape=(1, 8, 8), latents=3, hidden=4)
    x = torch.from_numpy(IMAGES).double()
    cross, entropy, divergence, likelihood, bound = vae.statistics(x, keys=KEYS).unbind(1)
    mean, log_variance = vae.encoder(x / 127.5 - 1)
    q, prior = Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(divergence, kl_divergence(q, prior).sum(1))
    torch.testing.assert_close(entropy, q.entropy().sum(1))
    torch.testing.assert_close(cross, divergence + entropy)
    weights = vae.log_weights(x, 16, keys=KEYS)
    torch.testing.assert_close(bound, weights.logsumexp(1) - math.log(16))
    z = mean[:, None] + q.stddev[:, None] * normal_noise(KEYS, (16, 3), seed=0, like=x)
    ratio = (Normal(0, 1).log_prob(z) - Normal(mean[:, None], q.stddev[:, None]).log_prob(z)).sum(2)
    torch.testing.assert_close(likelihood, (weights - ratio).mean(1))


def test_a_diffusions_terms_add_up_to_its_log_prob():
    model = diffusion(draws=2)
    x = torch.from_numpy(IMAGES).double()
    terms = model.statistics(x, keys=KEYS)
    assert model.statistic_names == ("term_2", "term_9") and terms.shape == (5, 2)
    torch.testing.assert_close(-terms.sum(1), model.log_prob(x, keys=KEYS))
    alone = diffusion(draws=2, timesteps=(9,))
    torch.testing.assert_close(terms[:, 1], -alone.log_prob(x, keys=KEYS))
    random = diffusion(timesteps=None)
    assert random.statistic_names == () and random.statistics(x, keys=KEYS).shape == (5, 0)


def test_the_block_holds_log_p_first_and_alone_where_there_is_no_more():
    glow = moved("glow", data_shape=(1, 8, 8), levels=1, steps=1, hidden=4)
    block = Statistics().extract(Request(glow, None, IMAGES[:4], KEYS[:4], 2))["statistics"]
    assert block.shape == (2, 2, 3)
    np.testing.assert_allclose(block[..., 0], block[..., 1:].sum(2), rtol=1e-12)
    assert Statistics().columns(glow)["statistics"] == ("log_p", "log_p_latent", "log_det")
    plain = torch.nn.Linear(64, 2).double()
    assert not isinstance(plain, HasStatistics)
    request = Request(plain, lambda m, x: -m(x.flatten(1)).square().sum(1), IMAGES, KEYS)
    assert Statistics().extract(request)["statistics"].shape == (5, 1, 1)
    assert Statistics().settings(plain) == {"statistics": {"names": ["log_p"]}}
