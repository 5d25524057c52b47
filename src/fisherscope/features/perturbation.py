"""Keyed perturbations of samples, for gradients that are averaged over a neighbourhood."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fisherscope.core.keys import KeyArray
from fisherscope.models.noise import normal_noise

FIRST_STREAM: Final = 1 << 32
"""Streams of noise from here on belong to perturbations; models count theirs from 0."""


def perturbed(
    x: NDArray[Any], keys: KeyArray, deviation: float, draw: int, seed: int, value_range: tuple[float, float]
) -> NDArray[np.float64]:
    """Return x plus normal noise, clipped to the range of values: the same for a sample in every batch.

    Args:
        x: samples (n, ...).
        keys: of the samples, (n,).
        deviation: of the noise, in the units of x.
        draw: number of the perturbation, from 0.
        seed: of the noise.
        value_range: lowest and highest value that a sample may hold.
    """
    like = torch.empty((), dtype=torch.float64)
    noise = normal_noise(keys, x.shape[1:], seed=seed, stream=FIRST_STREAM + draw, like=like).numpy()
    moved: NDArray[np.float64] = np.clip(x.astype(np.float64) + deviation * noise, *value_range)
    return moved
