"""Glow, a normalising flow of images (Kingma & Dhariwal 2018, arXiv 1807.03039)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.glow_layers import Permutation, Scale
from fisherscope.models.noise import keys_of, normal_noise, uniform_noise

_LEVELS: Final = 256


class Glow(GenerativeModel):
    """Glow with a multi-scale architecture and uniform dequantisation (Kingma & Dhariwal 2018).

    Args:
        data_shape: (C, H, W); H and W must be divisible by 2 ** levels.
        levels: L, number of scales; by default as many as the size allows, 3 at most.
        steps: K, steps of flow per scale.
        hidden: channels of the coupling networks.
        permutation: ``plain`` or ``lu``, the form of the 1x1 convolutions.
        init_seed: seed of the initial weights.
    """

    family: ClassVar[str] = "glow"
    statistic_names = ("log_p_latent", "log_det")

    def __init__(
        self,
        data_shape: tuple[int, int, int] = (3, 32, 32),
        levels: int | None = None,
        steps: int = 8,
        hidden: int = 64,
        permutation: Permutation = "plain",
        init_seed: int = 0,
    ) -> None:
        super().__init__(tuple(data_shape), (0.0, 255.0))
        levels = min(3, _most_levels(data_shape)) if levels is None else levels
        _check_settings(data_shape, levels, steps, hidden, permutation)
        self._config = {
            "data_shape": list(data_shape),
            "levels": levels,
            "steps": steps,
            "hidden": hidden,
            "permutation": permutation,
            "init_seed": init_seed,
        }
        generator = torch.Generator().manual_seed(init_seed)
        channels, height, width = data_shape
        self.scales = nn.ModuleList()
        self.latent_shapes: list[tuple[int, int, int]] = []
        for level in range(levels):
            channels, height, width = 4 * channels, height // 2, width // 2
            last = level == levels - 1
            self.scales.append(Scale(channels, steps, hidden, permutation, generator, split=not last))
            leaving = channels if last else channels // 2
            self.latent_shapes.append((leaving, height, width))
            channels -= leaving

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    def encode(self, v: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the latents, one tensor a level, and log|det J| (n,) of the map from v to all of them.

        Args:
            v: dequantised images scaled to [-0.5, 0.5), shape (n, C, H, W).
        """
        log_det = v.new_zeros(len(v))
        latents = []
        for scale in self.scales:
            v, latent, scale_log_det = scale(v)
            log_det = log_det + scale_log_det
            latents.append(latent)
        return latents, log_det

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Return v, shape (n, C, H, W), the inverse of :meth:`encode`."""
        v = latents[-1].new_zeros(0)
        for scale, latent in zip(reversed(self._scales()), reversed(latents), strict=True):
            v = scale.inverse(v, latent)
        return v

    def _scales(self) -> list[Scale]:
        return [scale for scale in self.scales if isinstance(scale, Scale)]

    def dequantise(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return (x + u)/256 - 1/2 with u uniform on [0, 1) per pixel; arguments as :meth:`log_prob`."""
        keys = keys_of(x, keys)
        x = self.check_batch(x)
        return (x + uniform_noise(keys, self.data_shape, seed=seed, like=x)) / _LEVELS - 0.5

    def flow_point(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return :meth:`dequantise`, the point that the flow maps."""
        return self.dequantise(x, seed=seed, keys=keys)

    def flow_latents(self, points: Tensor) -> Tensor:
        """Return the latents of all levels side by side, (n, D), for points (n, C, H, W) of :meth:`flow_point`."""
        return torch.cat([latent.flatten(1) for latent in self.encode(points)[0]], dim=1)

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the variational bound of log P(x) of 8-bit images under uniform dequantisation, nats, (n,)."""
        return self.statistics(x, seed=seed, keys=keys).sum(1)

    def statistics(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the terms of log P(x), (n, 2): log density of the latents, log|det J| of the map from levels to them.

        These are the statistics of Morningstar et al. (2021) for flows beside log p itself.
        """
        latents, log_det = self.encode(self.dequantise(x, seed=seed, keys=keys))
        log_p_latent = torch.stack(
            [-0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1) for z in latents], dim=1
        ).sum(1)
        return torch.stack([log_p_latent, log_det - self.n_dims * math.log(_LEVELS)], dim=1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Return n images, uint8 (n, C, H, W); latents are drawn from N(0, temperature**2)."""
        like = next(self.parameters())
        keys = np.arange(n, dtype=np.uint64)
        latents = [
            temperature * normal_noise(keys, shape, seed=seed, stream=level, like=like)
            for level, shape in enumerate(self.latent_shapes)
        ]
        v = self.decode(latents)
        if not torch.isfinite(v).all():
            raise ModelError(f"sampling overflows at temperature {temperature}; lower it, or train the model longer")
        return ((v + 0.5) * _LEVELS).floor().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def initialise(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> None:
        """Set every actnorm from a first batch of data (n, C, H, W); call it once, before training."""
        v = self.dequantise(x, seed=seed, keys=keys)
        for scale in self._scales():
            v = scale.initialise(v)


def _most_levels(data_shape: Sequence[int]) -> int:
    if len(data_shape) != 3:
        raise SettingError(f"data_shape is {tuple(data_shape)}, expected (channels, height, width)")
    most = 0
    while all(size % 2 ** (most + 1) == 0 for size in data_shape[1:]):
        most += 1
    if most == 0:
        raise SettingError(
            f"images are {data_shape[1]}x{data_shape[2]}, but Glow needs even height and width; resize them"
        )
    return most


def _check_settings(data_shape: Sequence[int], levels: int, steps: int, hidden: int, permutation: str) -> None:
    channels, height, width = data_shape
    most = _most_levels(data_shape)
    if not 1 <= levels <= most:
        raise SettingError(
            f"levels is {levels}, but images of {height}x{width} allow 1 to {most}: each level halves them"
        )
    if min(channels, steps, hidden) < 1:
        raise SettingError(f"channels ({channels}), steps ({steps}) and hidden ({hidden}) must be at least 1")
    if permutation not in ("plain", "lu"):
        raise SettingError(f"permutation is '{permutation}', expected 'plain' or 'lu'")
