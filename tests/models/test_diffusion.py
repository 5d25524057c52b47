from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.models.diffusion import Diffusion
from fisherscope.models.discretised import logistic_log_prob, normal_log_prob
from fisherscope.models.noise import normal_noise
from fisherscope.models.schedule import make_schedule
from fisherscope.models.unet import UNet, timestep_embedding

X = torch.randint(0, 256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def model(**settings: object) -> Diffusion:
    small = {"data_shape": (1, 4, 4), "channels": 16, "multipliers": (1, 2), "diffusion_steps": 12, "timesteps": None}
    made = Diffusion(**(small | settings)).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return made


def term(m: Diffusion, x: Tensor, t: int, seed: int = 0, draw: int = 0) -> Tensor:
    keys, each = sample_keys(x.numpy()), np.full((len(x), 1), t)
    return m.denoiser.terms(x.double(), each, keys, seed, [m.denoiser.stream(draw, t)], "bound")[:, 0]


def parts(m: Diffusion, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x_0 in [-1, 1], the noise of draw 0 at t, x_t and the prediction."""
    x0 = X.double() / 127.5 - 1
    eps = normal_noise(sample_keys(X.numpy()), (1, 4, 4), seed=0, stream=1 + t, like=x0)
    abar = float(m.schedule.abar[t])
    xt = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * eps
    return x0, eps, xt, m.unet(xt, torch.full((3,), float(t), dtype=torch.float64))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("t", [2, 7, 12])
def test_a_term_is_the_divergence_of_the_two_posteriors(schedule, t: int) -> None:
    m = model(schedule=schedule)
    abar, (x0, _, xt, eps_hat) = m.schedule.abar, parts(m, t)
    alpha, before = abar[t] / abar[t - 1], abar[t - 1]
    beta = 1 - alpha
    variance = beta * (1 - before) / (1 - abar[t])  # Ho et al. 2020, eq. 7
    q_mean = (math.sqrt(before) * beta * x0 + math.sqrt(alpha) * (1 - before) * xt) / (1 - abar[t])
    p_mean = (xt - beta / math.sqrt(1 - abar[t]) * eps_hat) / math.sqrt(alpha)  # eq. 11
    std = torch.tensor(math.sqrt(variance), dtype=torch.float64)
    expected = kl_divergence(Normal(q_mean, std), Normal(p_mean, std)).flatten(1).sum(1)
    assert torch.allclose(term(m, X, t), expected, rtol=1e-8)
    a, b, posterior_std = m.schedule.posterior(t, t - 1)
    assert torch.allclose(a * x0 + b * xt, q_mean) and posterior_std == pytest.approx(math.sqrt(variance))


def test_the_first_term_is_the_likelihood_of_the_levels() -> None:
    m = model()
    _, _, xt, eps_hat = parts(m, 1)
    beta = 1 - m.schedule.abar[1]
    mean = (xt - math.sqrt(beta) * eps_hat) / math.sqrt(1 - beta)
    normal = Normal(mean, torch.tensor(math.sqrt(beta), dtype=torch.float64))
    x0 = X.double() / 127.5 - 1
    upper = torch.where(X == 255, 1.0, normal.cdf(x0 + 1 / 255))
    lower = torch.where(X == 0, 0.0, normal.cdf(x0 - 1 / 255))
    inside = (upper - lower) > 1e-8  # further out the difference of cdfs has no digits left
    got = normal_log_prob(X.double(), (mean + 1) * 127.5, mean.new_tensor(math.sqrt(beta) * 127.5))
    assert inside.any() and torch.allclose(got[inside], (upper - lower).log()[inside], atol=1e-6)
    assert torch.allclose(term(m, X, 1), -got.flatten(1).sum(1))


def test_the_prior_term() -> None:
    m = model()
    x0, abar = X.double() / 127.5 - 1, m.schedule.abar[-1]
    std = torch.tensor(math.sqrt(1 - abar), dtype=torch.float64)
    standard = Normal(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    expected = kl_divergence(Normal(math.sqrt(abar) * x0, std), standard).flatten(1).sum(1)
    assert torch.allclose(m.denoiser.prior_term(X.double()), expected, rtol=1e-9)


def test_the_estimate_of_the_bound_is_unbiased_and_knows_its_error() -> None:
    m = model()
    x = X[:2]
    with torch.no_grad():
        terms = [torch.stack([term(m, x, t, seed=s) for s in range(60)]) for t in range(1, 13)]
        exact = -(m.denoiser.prior_term(x.double()) + torch.stack(terms).mean(1).sum(0))
        exact_error = torch.stack(terms).var(1).sum(0).sqrt() / math.sqrt(60)
        estimate, error = m.bound_with_error(x, seed=999, draws=400)
        assert ((estimate - exact).abs() < 4 * (error.square() + exact_error.square()).sqrt()).all()
        runs = torch.stack([m.bound_with_error(x, seed=s, draws=10)[0] for s in range(25)])
        claimed = torch.stack([m.bound_with_error(x, seed=s, draws=10)[1] for s in range(25)])
        assert torch.allclose(runs.std(0), claimed.square().mean(0).sqrt(), rtol=0.4)
        assert torch.allclose(model(timesteps=None, draws=10).log_prob(x, seed=3), runs[3])


def test_objectives_are_sums_of_their_terms() -> None:
    m = model(timesteps=(2, 5), draws=3)
    each = sum(term(m, X, t, draw=d) for t in (2, 5) for d in range(3))
    assert torch.allclose(m.log_prob(X), -each / 3)
    _, eps, _, eps_hat = parts(m, 5)
    for weight, expected in (("l2", 0.5 * (eps - eps_hat).square()), ("l1", (eps - eps_hat).abs())):
        assert torch.allclose(model(timesteps=(5,), weight=weight).log_prob(X), -expected.flatten(1).sum(1))


def test_random_timesteps_follow_their_weights() -> None:
    m = model()
    keys = np.arange(4000, dtype=np.uint64)
    weight = np.arange(1.0, 13.0)
    t, inverse = m.denoiser.random_timesteps(keys, 0, 1, weight)
    counts = np.bincount(t[:, 0], minlength=13)[1:] / len(keys)
    assert np.allclose(counts, weight / weight.sum(), atol=0.02)
    assert np.allclose(inverse, weight.sum() / weight[t - 1])


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [10, 1000])
def test_schedules(name, steps: int) -> None:
    schedule = make_schedule(name, steps)
    assert schedule.steps == steps and schedule.abar[0] == 1 and np.all(np.diff(schedule.abar) < 0)
    assert 0 < schedule.abar[-1] < 2e-3
    assert np.allclose(np.cumprod(1 - schedule.beta), schedule.abar)
    snr = schedule.abar[1:] / (1 - schedule.abar[1:])
    # eps-weights as differences of signal-to-noise ratios (Kingma et al. 2021, eq. 15)
    assert np.allclose(schedule.bound_weight[2:], (snr[:-1] - snr[1:]) / snr[1:], rtol=1e-6)


def test_the_linear_schedule_is_that_of_the_paper() -> None:
    assert np.allclose(make_schedule("linear", 1000).beta[[1, 1000]], [1e-4, 0.02])


@pytest.mark.parametrize("mean", [-3.0, 0.2, 127.0, 254.9, 300.0])
@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0, 1e4])
def test_discretised_densities_sum_to_one(mean: float, scale: float) -> None:
    levels = torch.arange(256, dtype=torch.float64)
    m, s = torch.tensor([mean, scale], dtype=torch.float64)
    logistic, normal = logistic_log_prob(levels, m, s.log()), normal_log_prob(levels, m, s)
    assert logistic.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    assert normal.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.isfinite(logistic).all() and torch.isfinite(normal).all()


def test_discretised_logistic_against_a_difference_of_cdfs() -> None:
    x, mean, scale = (torch.tensor(v, dtype=torch.float64) for v in ([3.0, 0.0, 255.0], 200.0, 20.0))
    cdf = lambda v: torch.sigmoid((v - mean) / scale)  # noqa: E731
    expected = torch.stack([cdf(x[0] + 0.5) - cdf(x[0] - 0.5), cdf(x[1] + 0.5), 1 - cdf(x[2] - 0.5)]).log()
    assert torch.allclose(logistic_log_prob(x, mean, scale.log()), expected, atol=1e-9)


@pytest.mark.parametrize("log_scale", [-200.0, -7.0, 200.0])
def test_a_discretised_logistic_of_a_runaway_scale_is_finite(log_scale: float) -> None:
    x, mean = torch.tensor([0.0, 100.0, 255.0]), torch.tensor([100.0], requires_grad=True)
    log_p = logistic_log_prob(x, mean, torch.tensor(log_scale))
    assert torch.isfinite(log_p).all() and torch.isfinite(torch.autograd.grad(log_p.sum(), mean)[0]).all()
    if log_scale < 0:
        assert log_p[1] == 0 and (log_p[[0, 2]] < -1000).all()  # all of the probability on the level of the mean


def test_gradients_stay_finite_in_the_far_tails() -> None:
    mean = torch.tensor([0.0, 255.0, 128.0], requires_grad=True)
    x = torch.tensor([255.0, 0.0, 128.0])
    for log_p in (
        logistic_log_prob(x, mean, torch.tensor(-3.0)),
        normal_log_prob(x, mean, torch.tensor(0.8)),
    ):
        assert torch.isfinite(log_p).all()
        assert torch.isfinite(torch.autograd.grad(log_p.sum(), mean)[0]).all()


def test_the_unet_knows_its_timestep_and_keeps_odd_sizes() -> None:
    net = UNet(1, 16, (1, 1, 2), 2, 1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x = torch.randn(2, 1, 7, 10)
    early, late = net(x, torch.tensor([1.0, 1.0])), net(x, torch.tensor([1.0, 900.0]))
    assert early.shape == x.shape
    assert torch.allclose(early[0], late[0], atol=1e-6) and not torch.allclose(early[1], late[1])
    embedded = timestep_embedding(torch.arange(1000.0), 16)
    assert torch.cdist(embedded, embedded).fill_diagonal_(9).min() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 24}, "multiples of 16"),
        ({"heads": 3}, "attention heads"),
        ({"patch": 3}, "cannot be cut into 3x3"),
        ({"schedule": "sigmoid"}, "'cosine' or 'linear'"),
        ({"diffusion_steps": 1}, "expected at least 2"),
        ({"timesteps": (0,)}, "some of 1 to 12"),
        ({"timesteps": (13,)}, "some of 1 to 12"),
        ({"timesteps": ()}, "some of 1 to 12"),
        ({"weight": "l3"}, "one of bound, l2, l1"),
        ({"draws": 0}, "at least 1"),
        ({"data_shape": (4, 4)}, "channels, height, width"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        model(**({"timesteps": (2,)} | arguments))
    with pytest.raises(SettingError, match="at least 2"):
        model(timesteps=None).bound_with_error(X, draws=1)
