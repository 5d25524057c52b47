from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.models.noise import normal_noise, uniform_noise
from fisherscope.models.vae import VAE

X = torch.randint(0, 256, (3, 1, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
KEYS = sample_keys(X.numpy())


def model(**settings: object) -> VAE:
    small = {"data_shape": (1, 6, 5), "latents": 3, "hidden": 4}
    made = VAE(**(small | settings)).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return made


def test_the_elbo_is_reconstruction_minus_divergence_on_average() -> None:
    m = model(likelihood="gaussian")
    x = X.double()
    mean, log_variance = m.encoder(x / 127.5 - 1)
    q = Normal(mean, (0.5 * log_variance).exp())
    divergence = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1)
    count = 2000
    noise = normal_noise(KEYS, (count, 3), seed=0, like=x)
    location, log_scale = m._decode((mean[:, None] + q.stddev[:, None] * noise).flatten(0, 1))
    u = uniform_noise(KEYS, (1, 6, 5), seed=0, stream=1, like=x)
    likelihood = Normal(location.unflatten(0, (3, count)), log_scale.exp().unflatten(0, (3, count)))
    reconstruction = likelihood.log_prob((x + u - 0.5)[:, None]).flatten(2).sum(2)
    weights = m.log_weights(X, count)
    error = (weights - reconstruction).std(1) / math.sqrt(count)
    assert (((weights.mean(1) - (reconstruction.mean(1) - divergence)).abs()) < 5 * error).all()
    assert torch.allclose(m.log_prob(X), m.log_weights(X, 1)[:, 0])


@pytest.mark.parametrize("likelihood", ["logistic", "gaussian"])
def test_the_importance_weighted_bound_grows_with_the_number_of_latents(likelihood) -> None:
    weights = model(likelihood=likelihood).log_weights(X, 4096).detach()
    bounds = torch.stack(
        [w.logsumexp(2).mean(1) - math.log(k) for k in (1, 4, 16, 64, 256) for w in [weights.unflatten(1, (-1, k))]]
    )
    assert (bounds.diff(dim=0) > 0).all()
    k4 = model(likelihood=likelihood, importance_samples=4)
    assert torch.allclose(k4.log_prob(X), k4.log_weights(X, 4).logsumexp(1) - math.log(4))


def test_the_bound_is_below_the_exact_likelihood() -> None:
    # One pixel and one latent: the exact likelihood is a one-dimensional integral.
    m = model(data_shape=(1, 1, 1), latents=1)
    x = torch.arange(0, 256, 51, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    location, log_scale = m._decode(grid)
    prior = Normal(0.0, 1.0).log_prob(grid[:, 0]).exp() * 16 / 4000
    likelihood = m._log_likelihood(x.double(), location[None], log_scale[None], np.zeros(0, dtype=np.uint64), 0)
    exact = (likelihood.exp() * prior).sum(1).log()
    assert torch.allclose(m.log_weights(x, 20_000).logsumexp(1) - math.log(20_000), exact, atol=0.05)
    assert (m.log_weights(x, 4000).mean(1) < exact).all()
    every = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    total = m._log_likelihood(every.double(), location[None, :1], log_scale[None, :1], np.zeros(0, dtype=np.uint64), 0)
    assert total.exp().sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 7, 9)])
def test_every_size_is_decoded_to_itself(shape) -> None:
    m = VAE(shape, latents=4, hidden=4)
    location, log_scale = m.decoder(torch.zeros(2, 4))
    assert location.shape == log_scale.shape == (2, *shape)
    assert m.mean_image(2).shape == (2, *shape) and m.mean_image(2).dtype == torch.uint8


@pytest.mark.parametrize("likelihood", ["logistic", "gaussian"])
def test_samples_follow_the_likelihood(likelihood) -> None:
    m = model(likelihood=likelihood)
    with torch.no_grad():
        for p in m.decoder.parameters():
            p.zero_()  # every pixel: location 127.5, scale 16
    values = m.sample(400).double()
    scale = 16 * (math.pi / math.sqrt(3) if likelihood == "logistic" else 1)
    assert values.mean().item() == pytest.approx(127.5, abs=1.5)
    assert values.std().item() == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize(
    "arguments", [{"data_shape": (6, 5)}, {"latents": 0}, {"likelihood": "laplace"}, {"importance_samples": 0}]
)
def test_bad_settings(arguments: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        model(**arguments)


def test_log_p_stays_finite_where_the_encoder_runs_away() -> None:
    m = model(likelihood="logistic").float()
    with torch.no_grad():
        last = [p for p in m.encoder.parameters() if p.ndim == 1][-1]
        last[3:] = 200.0  # the log variances
    log_p = m.log_prob(X, seed=0, keys=KEYS)
    gradients = torch.autograd.grad(log_p.sum(), list(m.parameters()), allow_unused=True)
    assert m.encode(X)[1].max() <= 10 and torch.isfinite(log_p).all()
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)
