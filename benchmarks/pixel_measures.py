"""What is measured of a heat map whose patch is known: pixel AUROC, deletion curve; and one baseline."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fisherscope.core.keys import sample_keys
from fisherscope.evaluation import Interval, auroc
from fisherscope.models.diffusion import Diffusion
from fisherscope.models.reconstruction import restoration, restoration_grid
from fisherscope.models.vae import VAE
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.guard import Guard
from fisherscope.pipeline.saliency import filtered
from fisherscope.pipeline.target import Target

Maps = NDArray[np.float64]

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
REPLICATES = 2000
REMOVED_BLUR = 4.0


def reconstruction_error(target: Target, x: NDArray[np.uint8], seed: int) -> Maps | None:
    """Return |x - reconstruction| summed over the channels, (n, H, W); None for families that reconstruct nothing.

    A VAE decodes the mean latent; a diffusion model restores the image from its noisy version at a quarter of its
    timesteps.
    """
    levels = torch.from_numpy(x).to(target.device, target.dtype)
    with torch.no_grad():
        if isinstance(target.module, VAE):
            image = target.module.decode(target.module.encode(levels)[0]) / 127.5 - 1
        elif isinstance(target.module, Diffusion):
            denoiser = target.module.denoiser
            grid = restoration_grid(denoiser.schedule)
            image = restoration(denoiser, levels / 127.5 - 1, sample_keys(x), seed, grid[len(grid) // 4])
        else:
            return None
        return (levels - (image + 1) * 127.5).abs().sum(1).double().cpu().numpy()


def pixel_aurocs(maps: Maps, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each image's AUROC of its map against its mask, (n,)."""
    return np.asarray([auroc(heat[~mask], heat[mask]) for heat, mask in zip(maps, masks, strict=True)])


def interval(values: NDArray[np.float64], seed: int) -> str:
    """Return mean and 95 % bootstrap interval over the images."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (REPLICATES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{Interval(values.mean(), low, high):.3f}"


def deletion_curve(guard: Guard, x: NDArray[np.uint8], maps: Maps) -> list[float]:
    """Return the median p-value after each share of FRACTIONS is replaced; the noise stays that of the image itself."""
    keys, ids = sample_keys(x), tuple(f"[{i}]" for i in range(len(x)))
    rank = np.argsort(np.argsort(-maps.reshape(len(x), -1), axis=1, kind="stable"), axis=1).reshape(maps.shape)
    ground = filtered(x, REMOVED_BLUR)
    curve: list[float] = []
    for fraction in FRACTIONS:
        gone = (rank < round(fraction * rank[0].size))[:, None]
        left = np.where(gone, np.rint(ground), x).astype(np.uint8)
        curve.append(float(np.median(guard.p_value(Batches(left, ids, keys, "deleted")))))
    return curve
