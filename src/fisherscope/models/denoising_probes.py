"""What a noise predictor says of an image at a few noise levels, as detectors of novelty read it.

With eps^ the predicted noise, the score of the noisy density at x_t is -eps^(x_t, t) / sqrt(1 - abar_t). Images are
levels 0..255 and become [-1, 1]; each function is batch independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fisherscope.core.keys import KeyArray
from fisherscope.models.denoising import Denoiser
from fisherscope.models.discretised import scaled
from fisherscope.models.noise import normal_noise
from fisherscope.models.schedule import Schedule

_MSMA_LEVELS: Final = 10
_MSMA_RANGE: Final = (0.02, 2.0)
_PROBE_STREAM: Final = 1


def msma_timesteps(schedule: Schedule) -> tuple[int, ...]:
    """Return the timesteps nearest to ten noise levels in geometric progression, rising, each once.

    Mahmood et al. (2021) take ten from 0.01 to 1 for images in [0, 1], which is 0.02 to 2 in [-1, 1]; the level of t
    is sqrt((1 - abar_t) / abar_t), the deviation of the noise once the signal has its full size.
    """
    sigma = np.sqrt((1 - schedule.abar[1:]) / schedule.abar[1:])
    wanted = np.geomspace(*_MSMA_RANGE, _MSMA_LEVELS)
    nearest = np.abs(np.log(sigma)[None] - np.log(wanted)[:, None]).argmin(1) + 1
    return tuple(int(t) for t in np.unique(nearest))


def score_norms(denoiser: Denoiser, x: Tensor, timesteps: Sequence[int]) -> Tensor:
    """Return the norm of the score of x itself, no noise added, times the noise level, (n, timesteps).

    sigma_t ||s(x, sigma_t)|| = ||eps^(sqrt(abar_t) x, t)|| (Mahmood et al. 2021, arXiv 2010.13132).
    """
    columns = [
        denoiser.noise_at(math.sqrt(denoiser.schedule.abar[t]) * scaled(x), t).flatten(1).norm(dim=1) for t in timesteps
    ]
    return torch.stack(columns, dim=1)


def path_timesteps(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """Return ``steps`` evenly spaced timesteps from 1, as DDIM takes them: 1, 101, ..., 901 for ten of 1,000."""
    stride = max(1, schedule.steps // steps)
    return tuple(range(1, schedule.steps + 1, stride))[:steps]


def path_statistics(denoiser: Denoiser, x: Tensor, timesteps: Sequence[int]) -> Tensor:
    """Return the six statistics of the path that DDIM's inversion takes from x to noise, (n, 6).

    The sums over timesteps and pixels of eps^, eps^^2, eps^^3 and of the same powers of d eps^ / dt, the difference of
    successive predictions times their number (Heng et al. 2024, arXiv 2405.11881, DiffPath-6D).
    """
    predictions = _inversion(denoiser, scaled(x), timesteps)
    rates = predictions.diff(dim=1) * len(timesteps)
    sums = [values.flatten(1).pow(power).sum(1) for values in (predictions, rates) for power in (1, 2, 3)]
    return torch.stack(sums, dim=1)


def _inversion(denoiser: Denoiser, v: Tensor, timesteps: Sequence[int]) -> Tensor:
    """Return the predictions along the path, (n, timesteps, C, H, W) (Song et al. 2021, run upwards)."""
    abar, found = denoiser.schedule.abar, []
    for i, t in enumerate(timesteps):
        eps = denoiser.noise_at(v, t)
        found.append(eps)
        if i + 1 < len(timesteps):
            following = abar[timesteps[i + 1]]
            v = math.sqrt(following) * denoiser.clean(v, eps, t) + math.sqrt(1 - following) * eps
    return torch.stack(found, dim=1)


def scoped_timesteps(schedule: Schedule) -> tuple[int, ...]:
    """Return the two timesteps of SCOPED for images, 1 and 300 of 1,000, scaled to other T."""
    return (1, max(2, round(0.3 * schedule.steps)))


def score_curvature(denoiser: Denoiser, x: Tensor, keys: KeyArray, seed: int, timesteps: Sequence[int]) -> Tensor:
    """Return T = ||s||^2 / Tr(ds/dx_t), s = -grad log p_t(x_t), at each timestep, (n, timesteps).

    x_t carries noise; the trace is Hutchinson's estimate from one normal probe, both fixed by seed and key (Barkley et
    al. 2025, arXiv 2510.01456, SCOPED).
    """
    columns = []
    for t in timesteps:
        abar = float(denoiser.schedule.abar[t])
        eps = normal_noise(keys, denoiser.data_shape, seed=seed, stream=denoiser.stream(0, t), like=x)
        noisy = math.sqrt(abar) * scaled(x) + math.sqrt(1 - abar) * eps
        probe = normal_noise(keys, denoiser.data_shape, seed=seed, stream=denoiser.stream(_PROBE_STREAM, t), like=x)
        predicted, trace = _prediction_and_trace(denoiser, noisy, t, probe)
        columns.append(predicted.flatten(1).square().sum(1) / (math.sqrt(1 - abar) * trace))
    return torch.stack(columns, dim=1)


def _prediction_and_trace(denoiser: Denoiser, noisy: Tensor, t: int, probe: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        noisy = noisy.detach().requires_grad_(True)
        predicted = denoiser.noise_at(noisy, t)
        (product,) = torch.autograd.grad((predicted * probe).sum(), noisy)
    return predicted.detach(), (product * probe).flatten(1).sum(1)
