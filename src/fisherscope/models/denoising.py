"""What a noise predictor says of images: terms of the variational bound, and samples (Ho et al. 2020).

Timesteps count from 1 (hardly any noise) to T. Term t of the bound (eq. 5) is KL(q(x_{t-1} | x_t, x_0) ||
p(x_{t-1} | x_t)) for t >= 2 and -log p(x_0 | x_1) for t = 1; both in nats, images in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.models.discretised import nearest_levels, normal_log_prob, scaled
from fisherscope.models.noise import normal_noise, uniform_noise
from fisherscope.models.schedule import Schedule, Vector

Weight = Literal["bound", "l2", "l1"]
Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Objective:
    """What log p of a diffusion model means.

    Attributes:
        timesteps: whose terms are summed; None estimates the sum over all T from ``draws`` random ones.
        weight: ``bound`` gives the terms in nats; ``l2`` takes ||eps - eps_hat||**2 / 2 instead, ``l1``
            |eps - eps_hat|_1.
        draws: noise draws to average, for each timestep, or in all where timesteps are random.
    """

    timesteps: tuple[int, ...] | None
    weight: Weight
    draws: int

    def check(self, steps: int) -> Objective:
        """Return the objective; settings that do not fit T = ``steps`` are a :class:`SettingError`."""
        chosen = self.timesteps
        if chosen is not None and (not chosen or min(chosen) < 1 or max(chosen) > steps):
            raise SettingError(f"timesteps are {chosen}, expected some of 1 to {steps}, or None for all")
        if self.weight not in get_args(Weight):
            raise SettingError(f"weight is '{self.weight}', expected one of {', '.join(get_args(Weight))}")
        if self.draws < 1:
            raise SettingError(f"draws is {self.draws}, expected at least 1")
        return self


@dataclass(frozen=True)
class Denoiser:
    """A noise predictor with its schedule.

    Attributes:
        predict: (noisy images (n, C, H, W), timesteps (n,)) -> the noise in them.
        schedule: the forward process.
        data_shape: (C, H, W).
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    schedule: Schedule
    data_shape: tuple[int, ...]

    def noise_at(self, v: Tensor, t: int) -> Tensor:
        """Return the noise predicted in images v (n, C, H, W) that are all at timestep ``t``."""
        return self.predict(v, torch.full((len(v),), float(t)).to(v))

    def clean(self, v: Tensor, eps: Tensor, t: int) -> Tensor:
        """Return the images in [-1, 1] that images v at timestep ``t`` with the noise ``eps`` are noisy versions of."""
        abar = self.schedule.abar[t]
        return (v - math.sqrt(1 - abar) * eps) / math.sqrt(abar)

    def log_prob(self, x: Tensor, keys: KeyArray, seed: int, objective: Objective) -> Tensor:
        """Return minus the objective for levels x (n, C, H, W), shape (n,)."""
        count, weight = objective.draws, objective.weight
        if objective.timesteps is not None:
            return -self.fixed_terms(x, keys, seed, objective).sum(1)
        if weight == "bound":
            return -self.random_bounds(x, keys, seed, count).mean(1)
        t, inverse = self.random_timesteps(keys, seed, count, np.ones(self.schedule.steps))
        terms = self.terms(x, t, keys, seed, [self.stream(d, 0) for d in range(count)], weight)
        return -(terms * torch.from_numpy(inverse).to(x)).mean(1)

    def fixed_terms(self, x: Tensor, keys: KeyArray, seed: int, objective: Objective) -> Tensor:
        """Return the objective's term at each of its timesteps, (n, timesteps), mean over draws; none if random."""
        if objective.timesteps is None:
            return x.new_zeros(len(x), 0)
        pairs = [(t, draw) for t in objective.timesteps for draw in range(objective.draws)]
        fixed = np.tile([t for t, _ in pairs], (len(x), 1))
        streams = [self.stream(draw, t) for t, draw in pairs]
        terms = self.terms(x, fixed, keys, seed, streams, objective.weight)
        return terms.reshape(len(x), -1, objective.draws).mean(2)

    def bound_with_error(self, x: Tensor, keys: KeyArray, seed: int, draws: int) -> tuple[Tensor, Tensor]:
        """Return an unbiased estimate of the bound of log P(x) and its standard error over the draws, (n,) each."""
        if draws < 2:
            raise SettingError(f"draws is {draws}, but a standard error needs at least 2")
        std, mean = torch.std_mean(self.random_bounds(x, keys, seed, draws), dim=1)
        return -mean, std / math.sqrt(draws)

    def training_loss(self, x: Tensor, keys: KeyArray, seed: int) -> Tensor:
        """Return ||eps - eps_hat||**2 / 2 at one uniformly random timestep a sample, (n,) (L_simple, eq. 14)."""
        t, _ = self.random_timesteps(keys, seed, 1, np.ones(self.schedule.steps))
        return self.terms(x, t, keys, seed, [self.stream(0, 0)], "l2")[:, 0]

    def prior_term(self, x: Tensor) -> Tensor:
        """Return KL(q(x_T | x_0) || N(0, I)) in nats, (n,), the one term without parameters."""
        signal = float(self.schedule.abar[-1])
        variance = 1 - signal
        return 0.5 * (signal * scaled(x).square() + variance - 1 - math.log(variance)).flatten(1).sum(1)

    def stream(self, draw: int, t: int) -> int:
        """Return the number of the noise stream of a draw at timestep t; t = 0 stands for random timesteps."""
        return 1 + draw * (self.schedule.steps + 1) + t

    def random_timesteps(self, keys: KeyArray, seed: int, draws: int, weight: Vector) -> tuple[Steps, Vector]:
        """Return timesteps (n, draws), drawn in proportion to ``weight`` (of 1..T), and 1 / their probabilities."""
        like = torch.zeros(1, dtype=torch.float64)
        u = uniform_noise(keys, (draws,), seed=seed, like=like).numpy()
        cumulative = np.cumsum(weight)
        t = np.searchsorted(cumulative, u * cumulative[-1], side="right")
        return t + 1, cumulative[-1] / weight[t]

    def random_bounds(self, x: Tensor, keys: KeyArray, seed: int, draws: int) -> Tensor:
        """Return independent, unbiased estimates of minus the bound in nats, (n, draws)."""
        # Timesteps in proportion to their weight: what varies is then the error of the prediction alone.
        t, inverse = self.random_timesteps(keys, seed, draws, self.schedule.bound_weight[2:])
        later = self.terms(x, t + 1, keys, seed, [self.stream(d, 0) for d in range(draws)], "bound")
        first = self.terms(x, np.ones_like(t), keys, seed, [self.stream(d, 1) for d in range(draws)], "bound")
        return self.prior_term(x)[:, None] + first + later * torch.from_numpy(inverse).to(x)

    def terms(self, x: Tensor, t: Steps, keys: KeyArray, seed: int, streams: Sequence[int], weight: Weight) -> Tensor:
        """Return terms (n, m) at timesteps t (n, m), the noise of column j from ``streams[j]``."""
        eps = torch.stack([normal_noise(keys, self.data_shape, seed=seed, stream=s, like=x) for s in streams], dim=1)
        abar = self.schedule.abar[t]
        noisy = _column(np.sqrt(abar), x) * scaled(x)[:, None] + _column(np.sqrt(1 - abar), x) * eps
        predicted = self.predict(noisy.flatten(0, 1), torch.from_numpy(t).to(x).flatten()).reshape(eps.shape)
        if weight == "l1":
            return (eps - predicted).abs().flatten(2).sum(2)
        squares = 0.5 * (eps - predicted).square().flatten(2).sum(2)
        if weight == "l2":
            return squares
        terms = torch.from_numpy(self.schedule.bound_weight[t]).to(x) * squares
        if not (t == 1).any():
            return terms
        return torch.where(torch.from_numpy(t == 1).to(x.device), self._first_term(x, noisy, predicted), terms)

    def _first_term(self, x: Tensor, noisy: Tensor, predicted: Tensor) -> Tensor:
        std = math.sqrt(self.schedule.beta[1])
        mean = (noisy - std * predicted) / math.sqrt(self.schedule.abar[1])
        return -normal_log_prob(x[:, None], (mean + 1) * 127.5, x.new_tensor(std * 127.5)).flatten(2).sum(2)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int, steps: int, like: Tensor) -> Tensor:
        """Return n images, uint8 (n, C, H, W), by ancestral sampling over ``steps`` evenly spaced timesteps."""
        keys = np.arange(n, dtype=np.uint64)
        v = normal_noise(keys, self.data_shape, seed=seed, stream=0, like=like)
        times = np.linspace(0, self.schedule.steps, min(steps, self.schedule.steps) + 1).round().astype(int)
        for t, s in zip(times[:0:-1], times[-2::-1], strict=True):
            clean = self.clean(v, self.noise_at(v, t), t).clamp(-1, 1)
            a, b, std = self.schedule.posterior(t, s)
            v = a * clean + b * v
            if s > 0:
                v = v + std * normal_noise(keys, self.data_shape, seed=seed, stream=int(s), like=like)
        return nearest_levels((v + 1) * 127.5)


def _column(values: Vector, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)[:, :, None, None, None]
