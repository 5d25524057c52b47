"""Denoising diffusion (Ho et al. 2020, arXiv 2006.11239) with its objective as a setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.discretised import normal_log_prob
from fisherscope.models.initial import initial_seed
from fisherscope.models.noise import keys_of, normal_noise, uniform_noise
from fisherscope.models.schedule import ScheduleName, Vector, make_schedule
from fisherscope.models.unet import UNet

Steps = NDArray[np.int64]
Weight = Literal["bound", "l2", "l1"]


class Diffusion(GenerativeModel):
    """DDPM with a compact UNet; ``log_prob`` is the objective that ``timesteps``, ``weight`` and ``draws`` name.

    Timesteps count from 1 (hardly any noise) to T. Term t of the variational bound (eq. 5) is
    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t >= 2 and -log p(x_0 | x_1) for t = 1.

    Args:
        data_shape: (C, H, W).
        channels: channels of the UNet at its first resolution, a multiple of 16 (8 groups of 2 or more).
        multipliers: channels of each resolution as multiples of ``channels``; each further one halves the size.
        heads: attention heads.
        patch: side of the squares of pixels that become channels before the UNet.
        diffusion_steps: T.
        schedule: ``cosine`` or ``linear``.
        timesteps: whose terms log p sums; None estimates the sum over all T from ``draws`` random ones.
        weight: ``bound`` gives the terms in nats; ``l2`` takes ||eps - eps_hat||**2 / 2 instead, ``l1``
            |eps - eps_hat|_1.
        draws: noise draws to average, for each timestep, or in all where timesteps are random.
        init_seed: seed of the initial weights.
    """

    family: ClassVar[str] = "diffusion"

    def __init__(
        self,
        data_shape: tuple[int, int, int] = (3, 32, 32),
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        heads: int = 2,
        patch: int = 1,
        diffusion_steps: int = 1000,
        schedule: ScheduleName = "cosine",
        timesteps: Sequence[int] | None = (4, 16, 64, 256),
        weight: Weight = "bound",
        draws: int = 1,
        init_seed: int = 0,
    ) -> None:
        super().__init__(tuple(data_shape), (0.0, 255.0))
        _check_settings(self.data_shape, channels, multipliers, heads, patch)
        _check_objective(timesteps, weight, draws, diffusion_steps)
        self._config = {
            "data_shape": list(data_shape),
            "channels": channels,
            "multipliers": list(multipliers),
            "heads": heads,
            "patch": patch,
            "diffusion_steps": diffusion_steps,
            "schedule": schedule,
            "timesteps": None if timesteps is None else list(timesteps),
            "weight": weight,
            "draws": draws,
            "init_seed": init_seed,
        }
        self.schedule = make_schedule(schedule, diffusion_steps)
        self.timesteps = None if timesteps is None else tuple(timesteps)
        self.weight, self.draws = weight, draws
        with initial_seed(init_seed):
            self.unet = UNet(data_shape[0], channels, multipliers, heads, patch)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return minus the objective, (n,); with ``weight='bound'`` and all timesteps the variational bound."""
        keys = keys_of(x, keys)
        x = self.check_batch(x)
        if self.timesteps is not None:
            pairs = [(t, draw) for t in self.timesteps for draw in range(self.draws)]
            t = np.tile([t for t, _ in pairs], (len(x), 1))
            streams = [self._stream(draw, t) for t, draw in pairs]
            return -self._terms(x, t, keys, seed, streams, self.weight).sum(1) / self.draws
        if self.weight == "bound":
            return -self._random_bounds(x, keys, seed, self.draws).mean(1)
        uniform = np.ones(self.schedule.steps)
        t, inverse = self._random_timesteps(keys, seed, self.draws, uniform)
        streams = [self._stream(draw, 0) for draw in range(self.draws)]
        terms = self._terms(x, t, keys, seed, streams, self.weight)
        return -(terms * torch.from_numpy(inverse).to(x)).mean(1)

    def bound(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None, draws: int = 4) -> Tensor:
        """Return an unbiased estimate of the variational bound of log P(x) in nats, (n,), from random timesteps."""
        return self.bound_with_error(x, seed=seed, keys=keys, draws=draws)[0]

    def bound_with_error(
        self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """Return the estimate of the bound and its own standard error over the draws of timestep and noise, (n,) each.

        Args:
            x: images (n, C, H, W).
            seed: seed of the noise.
            keys: keys of the original samples.
            draws: random timesteps a sample, at least 2.
        """
        if draws < 2:
            raise SettingError(f"draws is {draws}, but a standard error needs at least 2")
        keys = keys_of(x, keys)
        std, mean = torch.std_mean(self._random_bounds(self.check_batch(x), keys, seed, draws), dim=1)
        return -mean, std / math.sqrt(draws)

    def training_loss(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return ||eps - eps_hat||**2 / 2 at one uniformly random timestep a sample, (n,) (L_simple, eq. 14)."""
        keys = keys_of(x, keys)
        t, _ = self._random_timesteps(keys, seed, 1, np.ones(self.schedule.steps))
        return self._terms(self.check_batch(x), t, keys, seed, [self._stream(0, 0)], "l2")[:, 0]

    def prior_term(self, x: Tensor) -> Tensor:
        """Return KL(q(x_T | x_0) || N(0, I)) in nats, (n,), the one term without parameters."""
        v = _scaled(self.check_batch(x))
        signal = float(self.schedule.abar[-1])
        variance = 1 - signal
        return 0.5 * (signal * v.square() + variance - 1 - math.log(variance)).flatten(1).sum(1)

    def bound_term(self, x: Tensor, t: int, *, seed: int = 0, keys: KeyArray | None = None, draw: int = 0) -> Tensor:
        """Return term t of the bound at one noise draw, in nats, (n,)."""
        keys = keys_of(x, keys)
        x = self.check_batch(x)
        return self._terms(x, np.full((len(x), 1), t), keys, seed, [self._stream(draw, t)], "bound")[:, 0]

    def _stream(self, draw: int, t: int) -> int:
        # Stream 0 draws random timesteps; t = 0 stands for noise at such a timestep.
        return 1 + draw * (self.schedule.steps + 1) + t

    def _random_timesteps(self, keys: KeyArray, seed: int, draws: int, weight: Vector) -> tuple[Steps, Vector]:
        """Return timesteps (n, draws), drawn in proportion to ``weight`` (of 1..T), and 1 / their probabilities."""
        like = torch.zeros(1, dtype=torch.float64)
        u = uniform_noise(keys, (draws,), seed=seed, like=like).numpy()
        cumulative = np.cumsum(weight)
        t = np.searchsorted(cumulative, u * cumulative[-1], side="right")
        return t + 1, cumulative[-1] / weight[t]

    def _random_bounds(self, x: Tensor, keys: KeyArray, seed: int, draws: int) -> Tensor:
        """Return estimates of minus the bound, (n, draws)."""
        # Timesteps in proportion to their weight: what varies is then the error of the prediction alone.
        t, inverse = self._random_timesteps(keys, seed, draws, self.schedule.bound_weight[2:])
        streams = [self._stream(draw, 0) for draw in range(draws)]
        terms = self._terms(x, t + 1, keys, seed, streams, "bound") * torch.from_numpy(inverse).to(x)
        streams = [self._stream(draw, 1) for draw in range(draws)]
        return self.prior_term(x)[:, None] + terms + self._terms(x, np.ones_like(t), keys, seed, streams, "bound")

    def _terms(self, x: Tensor, t: Steps, keys: KeyArray, seed: int, streams: Sequence[int], weight: Weight) -> Tensor:
        """Return the objective's terms (n, m) at timesteps t (n, m), the noise of column j from ``streams[j]``."""
        eps = torch.stack([normal_noise(keys, self.data_shape, seed=seed, stream=s, like=x) for s in streams], dim=1)
        abar = self.schedule.abar[t]
        noisy = _column(np.sqrt(abar), x) * _scaled(x)[:, None] + _column(np.sqrt(1 - abar), x) * eps
        predicted: Tensor = self.unet(noisy.flatten(0, 1), torch.from_numpy(t).to(x).flatten()).unflatten(0, t.shape)
        if weight == "l1":
            return (eps - predicted).abs().flatten(2).sum(2)
        squares = 0.5 * (eps - predicted).square().flatten(2).sum(2)
        if weight == "l2":
            return squares
        terms = torch.from_numpy(self.schedule.bound_weight[t]).to(x) * squares
        if not (t == 1).any():
            return terms
        std = math.sqrt(self.schedule.beta[1])
        mean = (noisy - std * predicted) / math.sqrt(self.schedule.abar[1])
        first = normal_log_prob(x[:, None], (mean + 1) * 127.5, x.new_tensor(std * 127.5)).flatten(2).sum(2)
        return torch.where(torch.from_numpy(t == 1).to(x.device), -first, terms)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0, steps: int = 100) -> Tensor:
        """Return n images, uint8 (n, C, H, W), by ancestral sampling over ``steps`` evenly spaced timesteps."""
        like = next(self.parameters())
        keys = np.arange(n, dtype=np.uint64)
        v = normal_noise(keys, self.data_shape, seed=seed, stream=0, like=like)
        times = np.unique(np.linspace(0, self.schedule.steps, min(steps, self.schedule.steps) + 1).round().astype(int))
        for t, s in zip(times[:0:-1], times[-2::-1], strict=True):
            abar = self.schedule.abar[t]
            eps = self.unet(v, torch.full((n,), float(t)).to(like))
            clean = ((v - math.sqrt(1 - abar) * eps) / math.sqrt(abar)).clamp(-1, 1)
            a, b, std = self.schedule.posterior(t, s)
            v = a * clean + b * v
            if s > 0:
                v = v + std * normal_noise(keys, self.data_shape, seed=seed, stream=int(s), like=like)
        return ((v + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _scaled(x: Tensor) -> Tensor:
    return x / 127.5 - 1


def _column(values: Vector, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)[:, :, None, None, None]


def _check_settings(
    data_shape: Sequence[int], channels: int, multipliers: Sequence[int], heads: int, patch: int
) -> None:
    if len(data_shape) != 3:
        raise SettingError(f"data_shape is {tuple(data_shape)}, expected (channels, height, width)")
    if patch < 1 or any(size % patch for size in data_shape[1:]):
        raise SettingError(f"images of {data_shape[1]}x{data_shape[2]} cannot be cut into {patch}x{patch} patches")
    if channels < 16 or channels % 16 or not multipliers or min(multipliers) < 1:
        raise SettingError(f"channels is {channels} and multipliers {tuple(multipliers)}, expected multiples of 16")
    if heads < 1 or channels * multipliers[-1] % heads:
        raise SettingError(f"{channels * multipliers[-1]} channels cannot be shared by {heads} attention heads")


def _check_objective(timesteps: Sequence[int] | None, weight: str, draws: int, steps: int) -> None:
    if timesteps is not None and (not timesteps or min(timesteps) < 1 or max(timesteps) > steps):
        raise SettingError(f"timesteps are {tuple(timesteps)}, expected some of 1 to {steps}, or None for all")
    if weight not in get_args(Weight):
        raise SettingError(f"weight is '{weight}', expected one of {', '.join(get_args(Weight))}")
    if draws < 1:
        raise SettingError(f"draws is {draws}, expected at least 1")
