"""Likelihood regret: the optimised posterior against quadrature, and what it must not depend on."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fisherscope.core.errors import ModelError
from fisherscope.core.keys import sample_keys
from fisherscope.features.extractors import Request
from fisherscope.features.regret import Regret
from fisherscope.models.regret import best_posterior, likelihood_regret
from fisherscope.models.vae import VAE

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 6, 5), dtype=np.uint8)
KEYS = sample_keys(IMAGES)


def model(**settings):
    made = VAE(**{"data_shape": (1, 6, 5), "latents": 3, "hidden": 4, **settings}).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return made


def exact_bound(vae, x, mean, log_variance):
    """The evidence lower bound of one image under q = N(mean, exp(log_variance)) of one latent, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = mean + math.exp(log_variance / 2) * torch.from_numpy(nodes)[:, None]
    with torch.no_grad():
        likelihood = vae._log_likelihood(x.expand(60, *x.shape[1:]), z[:, None], None, 0)
    divergence = 0.5 * (mean**2 + math.exp(log_variance) - 1 - log_variance)
    return float((likelihood[:, 0] * torch.from_numpy(weights)).sum() / math.sqrt(2 * math.pi)) - divergence


def test_the_best_posterior_is_the_one_of_quadrature():
    vae, x = model(latents=1), torch.from_numpy(IMAGES).double()
    with torch.no_grad():
        start = vae.encode(x)
    mean, log_variance = best_posterior(vae, x, *start, seed=0, keys=KEYS)
    for i in range(4):
        before = exact_bound(vae, x[i : i + 1], float(start[0][i]), float(start[1][i]))
        after = exact_bound(vae, x[i : i + 1], float(mean[i]), float(log_variance[i]))
        best = -min(
            minimize(lambda q, i=i: -exact_bound(vae, x[i : i + 1], *q), [m, -1.0], method="Nelder-Mead").fun
            for m in (float(start[0][i]), float(mean[i]))
        )
        assert after <= best + 1e-6
        assert after - before > 0.7 * (best - before), (before, after, best)


def test_regret_is_the_difference_of_importance_weighted_bounds():
    vae, x = model(), torch.from_numpy(IMAGES).double()
    got = likelihood_regret(vae, x, seed=2, keys=KEYS)
    start = vae.encode(x)
    best = best_posterior(vae, x, *(s.detach() for s in start), seed=2, keys=KEYS)

    def log_mean(mean, log_variance):
        draws = [vae.log_weights_at(x, mean, log_variance, 8, seed=2, keys=KEYS, stream=102 + i)[0] for i in range(8)]
        return torch.cat(draws, 1).exp().mean(1).log()

    torch.testing.assert_close(got, log_mean(*best) - log_mean(*start))
    assert got.mean() > 0.1


def test_it_depends_neither_on_the_batch_nor_on_global_noise_and_leaves_the_model_alone():
    vae = model(likelihood="gaussian")
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    whole = Regret().extract(Request(vae, None, IMAGES, KEYS, 2, seed=1))["regret"]
    torch.manual_seed(7)
    alone = Regret().extract(Request(vae, None, IMAGES[2:], KEYS[2:], 2, seed=1))["regret"]
    np.testing.assert_allclose(alone[0], whole[1], rtol=1e-6, atol=1e-9)
    assert np.abs(Regret().extract(Request(vae, None, IMAGES, KEYS, 2, seed=2))["regret"] - whole).max() > 0
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())


def test_other_models_are_refused():
    with pytest.raises(ModelError, match="Linear is no VAE"):
        Regret().extract(Request(torch.nn.Linear(2, 2), None, IMAGES, KEYS))
