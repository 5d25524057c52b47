"""Per-sample noise as a function of (seed, sample key, stream), drawn on the CPU.

The score of a sample must not depend on its batch, its order, the number of workers or the device. So each sample
has its own counter-based generator (Philox, Salmon et al. 2011), keyed by the sample's 64-bit key and the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fisherscope.core.errors import ModelError
from fisherscope.core.keys import KeyArray, sample_keys

_SEED_BITS: Final = (1 << 64) - 1


def _draw(
    keys: KeyArray, seed: int, stream: int, draw: Callable[[np.random.Generator], NDArray[np.float64]]
) -> NDArray[np.float64]:
    # As a list of integers the pair would pass through float64, where keys above 2**63 lose their last digits.
    pairs = np.stack([keys, np.full_like(keys, seed & _SEED_BITS)], axis=1)
    generators = (np.random.Generator(np.random.Philox(key=pair, counter=[0, 0, 0, stream])) for pair in pairs)
    return np.stack([draw(g) for g in generators])


def uniform_noise(keys: KeyArray, shape: Sequence[int], *, seed: int, stream: int = 0, like: Tensor) -> Tensor:
    """Return noise uniform on [0, 1), one independent draw a sample.

    Args:
        keys: sample keys, shape (n,), dtype uint64.
        shape: shape of one sample's draw.
        seed: any integer; together with a key it fixes the draw.
        stream: number of the draw, for a model that needs several.
        like: tensor whose dtype and device the result takes.

    Returns:
        Tensor (n, *shape). The numbers are drawn in float64, so float32 and float64 models see the same noise.
    """
    noise = _draw(keys, seed, stream, lambda g: g.random(tuple(shape)))
    # Rounding to a narrower dtype would turn the highest draws into 1, the next level of a dequantised pixel.
    below_one = 1 - torch.finfo(like.dtype).eps / 2
    return torch.from_numpy(noise).to(device=like.device, dtype=like.dtype).clamp(max=below_one)


def normal_noise(keys: KeyArray, shape: Sequence[int], *, seed: int, stream: int = 0, like: Tensor) -> Tensor:
    """Return standard normal noise, one independent draw a sample; arguments as :func:`uniform_noise`."""
    noise = _draw(keys, seed, stream, lambda g: g.standard_normal(tuple(shape)))
    return torch.from_numpy(noise).to(device=like.device, dtype=like.dtype)


def keys_of(x: Tensor, keys: KeyArray | None) -> KeyArray:
    """Return ``keys``, or where None is given the keys of the samples in ``x`` (n, ...), shape (n,), uint64."""
    if keys is None:
        plain = x.detach().cpu()
        # numpy knows no bfloat16; float32 holds each of its values
        return sample_keys((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
    if len(keys) != len(x):
        raise ModelError(f"{len(keys)} keys were given for {len(x)} samples; give one uint64 key a sample")
    return keys
