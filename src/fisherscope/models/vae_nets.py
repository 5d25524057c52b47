"""Encoders and decoders of the VAE: latents as one vector of the image, or as a grid with one vector a place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from fisherscope.models.initial import zero_
from fisherscope.models.vae_heads import LogisticHead, MixtureOfLogistics

MakeHead = Callable[[int], LogisticHead | MixtureOfLogistics]
"""From the number of features of a pixel to the module that makes a likelihood of them."""


class VectorEncoder(nn.Module):
    """Three strided convolutions and two linear layers: image to mean and log variance of q(z | x)."""

    def __init__(self, data_shape: Sequence[int], sizes: Sequence[tuple[int, int]], hidden: int, latents: int) -> None:
        super().__init__()
        widths = [data_shape[0], hidden, 2 * hidden, 2 * hidden]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.hidden = nn.Linear(widths[-1] * math.prod(sizes[-1]), 4 * hidden)
        self.out = nn.Linear(4 * hidden, 2 * latents)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, (n, latents) each, for v (n, C, H, W)."""
        for convolution in self.convolutions:
            v = F.silu(convolution(v))
        mean, log_variance = self.out(F.silu(self.hidden(v.flatten(1)))).chunk(2, dim=1)
        return mean, log_variance


class VectorDecoder(nn.Module):
    """Two linear layers and three sub-pixel convolutions (Shi et al. 2016): latents to features of every pixel.

    Attributes:
        out: the head, from the features to the likelihood.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], hidden: int, latents: int, make_head: MakeHead) -> None:
        super().__init__()
        self.sizes = sizes
        self.width = 2 * hidden
        self.hidden = nn.Linear(latents, 4 * hidden)
        self.spread = nn.Linear(4 * hidden, self.width * math.prod(sizes[-1]))
        widths = [self.width, self.width, hidden, hidden]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, 4 * b, 3, padding=1) for a, b in pairwise(widths))
        self.out = make_head(hidden)

    def forward(self, z: Tensor) -> Tensor:
        """Return features (n, hidden, H, W) for z (n, latents)."""
        h = F.silu(self.spread(F.silu(self.hidden(z)))).reshape(len(z), self.width, *self.sizes[-1])
        for convolution, (height, width) in zip(self.convolutions, reversed(self.sizes[:-1]), strict=True):
            h = F.silu(F.pixel_shuffle(convolution(h), 2)[:, :, :height, :width])
        return h


class _Block(nn.Module):
    """Two convolutions after a group normalisation, and a skip (He et al. 2016); the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(width, 8), width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = zero_(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.second(F.silu(self.first(F.silu(self.norm(h)))))
        return out


class GridEncoder(nn.Module):
    """A strided convolution and residual blocks: image to mean and log variance of q(z | x), a vector a place."""

    def __init__(self, data_shape: Sequence[int], hidden: int, latents: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(data_shape[0], hidden, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(_Block(hidden) for _ in range(blocks)))
        self.out = nn.Conv2d(hidden, 2 * latents, 1)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, (n, latents * places) each, for v (n, C, H, W)."""
        mean, log_variance = self.out(F.silu(self.blocks(self.first(v)))).chunk(2, dim=1)
        return mean.flatten(1), log_variance.flatten(1)


class GridDecoder(nn.Module):
    """Residual blocks and a sub-pixel convolution (Shi et al. 2016): latents to features of every pixel.

    Attributes:
        out: the head, from the features to the likelihood.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]], hidden: int, latents: int, blocks: int, make_head: MakeHead
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.first = nn.Conv2d(latents, hidden, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(hidden) for _ in range(blocks)))
        # Half as many channels at the full resolution, where a layer costs most.
        features = (hidden + 1) // 2
        self.up = nn.Conv2d(hidden, 4 * features, 3, padding=1)
        self.out = make_head(features)

    def forward(self, z: Tensor) -> Tensor:
        """Return features (n, hidden / 2, H, W) for z (n, latents * places)."""
        height, width = self.sizes[0]
        h = self.first(z.reshape(len(z), -1, *self.sizes[1]))
        h = F.silu(F.pixel_shuffle(self.up(F.silu(self.blocks(h))), 2))
        return h[:, :, :height, :width]
