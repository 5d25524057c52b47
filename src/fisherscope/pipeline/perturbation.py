"""Samples whose meaning is drowned in noise, to train a model of the background on (Ren et al. 2019)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fisherscope.core.errors import DataError, SettingError
from fisherscope.data import Samples
from fisherscope.models.noise import uniform_noise

_LEVELS: Final = 256
_CHUNK: Final = 1024
_STREAM: Final = 1 << 20
"""Far from the streams that models draw from with the same seed and keys."""


def perturb_samples(samples: Samples, rate: float, *, seed: int = 0) -> Samples:
    """Return samples of which each value is replaced, with probability ``rate``, by a uniform one of 0..255.

    Ren et al. 2019 (arXiv 1906.02845), who draw anew every epoch; here every sample is perturbed once,
    by its key and the seed. The keys stay those of the originals: a background model has been trained on them.

    Args:
        samples: 8-bit images or bytes of text, (n, ...).
        rate: share of values to replace, in (0, 1]; the paper uses 0.1 to 0.3.
        seed: of the replacement.

    Raises:
        SettingError: a rate out of range.
        DataError: samples that are not 8-bit.
    """
    if not 0 < rate <= 1:
        raise SettingError(f"perturb is {rate}, expected a share of values above 0 and at most 1, such as 0.2")
    if samples.x.dtype != np.uint8:
        raise DataError(f"{samples.name} is {samples.x.dtype}, but only 8-bit samples (uint8) can be perturbed")
    starts = range(0, len(samples.x), _CHUNK)
    x = np.concatenate(
        [_perturbed(samples.select(range(s, min(s + _CHUNK, len(samples.x)))), rate, seed) for s in starts]
    )
    return replace(samples, x=x, name=f"{samples.name}, perturbed {rate:g}")


def _perturbed(part: Samples, rate: float, seed: int) -> NDArray[np.uint8]:
    shape, like = (2, *part.x.shape[1:]), torch.zeros(1, dtype=torch.float64)
    chosen, level = uniform_noise(part.keys, shape, seed=seed, stream=_STREAM, like=like).numpy().swapaxes(0, 1)
    replaced: NDArray[np.uint8] = np.where(chosen < rate, (level * _LEVELS).astype(np.uint8), part.x)
    return replaced
