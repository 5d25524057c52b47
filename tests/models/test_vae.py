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
    z = (mean[:, None] + q.stddev[:, None] * noise).flatten(0, 1)
    location, log_scale = m.decoder.out.located(m.decoder(z))
    u = uniform_noise(KEYS, (1, 6, 5), seed=0, stream=1, like=x)
    likelihood = Normal(location.unflatten(0, (3, count)), log_scale.exp().unflatten(0, (3, count)))
    reconstruction = likelihood.log_prob((x + u - 0.5)[:, None]).flatten(2).sum(2)
    weights = m.log_weights(X, count)
    error = (weights - reconstruction).std(1) / math.sqrt(count)
    assert (((weights.mean(1) - (reconstruction.mean(1) - divergence)).abs()) < 5 * error).all()
    assert torch.allclose(m.log_prob(X), m.log_weights(X, 1)[:, 0])


@pytest.mark.parametrize("layout", ["vector", "grid"])
@pytest.mark.parametrize("likelihood", ["logistic", "gaussian", "mixture"])
def test_the_importance_weighted_bound_grows_with_the_number_of_latents(likelihood, layout) -> None:
    settings = {"likelihood": likelihood, "layout": layout, "latents": 3 if layout == "vector" else 1}
    weights = model(**settings).log_weights(X, 4096).detach()
    bounds = torch.stack(
        [w.logsumexp(2).mean(1) - math.log(k) for k in (1, 4, 16, 64, 256) for w in [weights.unflatten(1, (-1, k))]]
    )
    assert (bounds.diff(dim=0) > 0).all()
    k4 = model(**settings, importance_samples=4)
    assert torch.allclose(k4.log_prob(X), k4.log_weights(X, 4).logsumexp(1) - math.log(4))


@pytest.mark.parametrize("layout", ["vector", "grid"])
@pytest.mark.parametrize("likelihood", ["logistic", "mixture"])
def test_the_bound_is_below_the_exact_likelihood(likelihood, layout) -> None:
    # One pixel and one latent: the exact likelihood is a one-dimensional integral.
    m = model(data_shape=(1, 1, 1), latents=1, likelihood=likelihood, layout=layout)
    x = torch.arange(0, 256, 51, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    prior = Normal(0.0, 1.0).log_prob(grid[:, 0]).exp() * 16 / 4000
    no_keys = np.zeros(0, dtype=np.uint64)
    likelihoods = m._log_likelihood(x.double(), grid.expand(len(x), -1, -1), no_keys, 0)
    exact = (likelihoods.exp() * prior).sum(1).log()
    assert torch.allclose(m.log_weights(x, 20_000).logsumexp(1) - math.log(20_000), exact, atol=0.05)
    assert (m.log_weights(x, 4000).mean(1) < exact).all()
    every = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    total = m._log_likelihood(every.double(), grid[:1].expand(len(every), -1, -1), no_keys, 0)
    assert total.exp().sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("layout", ["vector", "grid"])
@pytest.mark.parametrize("likelihood", ["logistic", "mixture"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 7, 9)])
def test_every_size_is_decoded_to_itself(shape, likelihood, layout) -> None:
    m = VAE(shape, latents=4, hidden=4, likelihood=likelihood, layout=layout)
    assert m.decode(torch.zeros(2, m.latents)).shape == (2, *shape)
    for images in (m.mean_image(2), m.sample(2)):
        assert images.shape == (2, *shape) and images.dtype == torch.uint8


@pytest.mark.parametrize("layout", ["vector", "grid"])
@pytest.mark.parametrize("likelihood", ["logistic", "gaussian", "mixture"])
def test_samples_follow_the_likelihood(likelihood, layout) -> None:
    m = model(likelihood=likelihood, layout=layout, components=1)
    with torch.no_grad():
        for p in m.decoder.parameters():
            p.zero_()  # every pixel: location 127.5, scale 16
    values = m.sample(400).double()
    scale = 16 * (1 if likelihood == "gaussian" else math.pi / math.sqrt(3))
    assert values.mean().item() == pytest.approx(127.5, abs=1.5)
    assert values.std().item() == pytest.approx(scale, rel=0.05)


@torch.no_grad()
def test_samples_and_means_of_a_mixture_agree_with_its_probabilities() -> None:
    # Two channels of one pixel: the second's mean moves with the first.
    m = model(data_shape=(2, 1, 1), likelihood="mixture", layout="grid", latents=1, components=2)
    head = m.decoder.out
    features = torch.randn(1, 2, 1, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    levels = torch.cartesian_prod(torch.arange(256.0), torch.arange(256.0)).double()
    log_p = head(features.expand(len(levels), -1, -1, -1), levels[:, :, None, None]).flatten(1).sum(1)
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    expected = (log_p.exp()[:, None] * levels).sum(0)
    assert torch.allclose(head.mean(features)[0, :, 0, 0], expected, atol=2.0)  # mass beyond the end levels moves it
    u = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drawn = head.draw(features.expand(len(u), -1, -1, -1), u)
    assert torch.allclose(drawn.mean(0), expected, atol=1.0)
    assert np.corrcoef(drawn.T.numpy())[0, 1] == pytest.approx(_correlation(levels, log_p.exp()), abs=0.03)


def _correlation(values: torch.Tensor, weights: torch.Tensor) -> float:
    covariance = np.cov(values.T.numpy(), aweights=weights.numpy())
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


@pytest.mark.parametrize(
    "arguments", [{"data_shape": (6, 5)}, {"latents": 0}, {"likelihood": "laplace"}, {"layout": "ring"}, {"blocks": 0}]
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
