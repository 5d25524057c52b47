"""How well a diffusion model restores an image from several amounts of noise (Graham et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fisherscope.core.keys import KeyArray
from fisherscope.models.denoising import Denoiser
from fisherscope.models.discretised import scaled
from fisherscope.models.noise import normal_noise
from fisherscope.models.schedule import Schedule

GRID: Final = 20
STARTS: Final = 10
_WINDOW: Final = 11
_WIDTH: Final = 1.5


def restoration_grid(schedule: Schedule) -> tuple[int, ...]:
    """Return the timesteps that DDIM's steps visit, rising: 20 evenly spaced ones up to T, each once."""
    count = min(GRID, schedule.steps)
    return tuple(round((i + 1) * schedule.steps / count) for i in range(count))


def restoration_starts(schedule: Schedule) -> tuple[int, ...]:
    """Return the timesteps from which images are restored: every second one of the grid."""
    grid = restoration_grid(schedule)
    return grid[:: max(1, len(grid) // STARTS)]


def restoration_errors(denoiser: Denoiser, x: Tensor, keys: KeyArray, seed: int) -> Tensor:
    """Return mean squared error and 1 - SSIM of the restored images, (n, 2 * starts): all errors, then all 1 - SSIM.

    Args:
        denoiser: the noise predictor.
        x: images of levels 0..255, (n, C, H, W).
        keys: keys of the original samples.
        seed: of the noise that is to be removed.
    """
    v = scaled(x)
    restored = [restoration(denoiser, v, keys, seed, t) for t in restoration_starts(denoiser.schedule)]
    errors = [(image - v).square().flatten(1).mean(1) for image in restored]
    return torch.stack([*errors, *(1 - ssim((image + 1) / 2, (v + 1) / 2) for image in restored)], dim=1)


def restoration(denoiser: Denoiser, v: Tensor, keys: KeyArray, seed: int, start: int) -> Tensor:
    """Return images (n, C, H, W), scaled to [-1, 1], after DDIM's way back from their noisy versions.

    Args:
        denoiser: the noise predictor.
        v: images scaled to [-1, 1].
        keys: keys of the original samples.
        seed: of the noise that is to be removed.
        start: timestep of the noisy version, one of :func:`restoration_grid`.
    """
    abar = denoiser.schedule.abar
    eps = normal_noise(keys, denoiser.data_shape, seed=seed, stream=denoiser.stream(0, start), like=v)
    noisy = math.sqrt(abar[start]) * v + math.sqrt(1 - abar[start]) * eps
    path = [0, *(t for t in restoration_grid(denoiser.schedule) if t <= start)]
    for t, following in zip(path[:0:-1], path[-2::-1], strict=True):
        eps = denoiser.noise_at(noisy, t)
        # An undertrained model's guess at high noise leaves the range of images, as in its own sampler.
        clean = denoiser.clean(noisy, eps, t).clamp(-1, 1)
        noisy = math.sqrt(abar[following]) * clean + math.sqrt(1 - abar[following]) * eps
    return noisy


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity of images in [0, 1], mean over channels and positions, (n,).

    Wang et al. 2004: normal window of deviation 1.5 and side 11, less where the image is smaller; K1 = 0.01,
    K2 = 0.03; positions whose window lies inside the image.

    Args:
        first: images (n, C, H, W).
        second: images of that shape.
    """
    kernel = _kernel(first.shape[2:], first)

    def local_mean(image: Tensor) -> Tensor:
        return F.conv2d(image.flatten(0, 1)[:, None], kernel)

    mean1, mean2 = local_mean(first), local_mean(second)
    variance1, variance2 = local_mean(first * first) - mean1**2, local_mean(second * second) - mean2**2
    covariance = local_mean(first * second) - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean1 * mean2 + c1) / (mean1**2 + mean2**2 + c1)
    structure = (2 * covariance + c2) / (variance1 + variance2 + c2)
    return (luminance * structure).reshape(len(first), -1).mean(1)


def _kernel(sides: Sequence[int], like: Tensor) -> Tensor:
    side = min(_WINDOW, *((s - 1) // 2 * 2 + 1 for s in sides))
    window = torch.exp(-0.5 * ((torch.arange(side).to(like) - side // 2) / _WIDTH).square())
    kernel = window[:, None] * window[None, :]
    return (kernel / kernel.sum())[None, None]
