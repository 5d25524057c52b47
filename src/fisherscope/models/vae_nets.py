"""The two networks of the VAE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class Encoder(nn.Module):
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


class Decoder(nn.Module):
    """Two linear layers and three sub-pixel convolutions (Shi et al. 2016): latents to the likelihood's parameters."""

    def __init__(self, data_shape: Sequence[int], sizes: Sequence[tuple[int, int]], hidden: int, latents: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.width = 2 * hidden
        self.hidden = nn.Linear(latents, 4 * hidden)
        self.spread = nn.Linear(4 * hidden, self.width * math.prod(sizes[-1]))
        widths = [self.width, self.width, hidden, hidden]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, 4 * b, 3, padding=1) for a, b in pairwise(widths))
        self.out = nn.Conv2d(hidden, 2 * data_shape[0], 3, padding=1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return two images (n, C, H, W), a location and a log scale, for z (n, latents)."""
        h = F.silu(self.spread(F.silu(self.hidden(z)))).reshape(len(z), self.width, *self.sizes[-1])
        for convolution, (height, width) in zip(self.convolutions, reversed(self.sizes[:-1]), strict=True):
            h = F.silu(F.pixel_shuffle(convolution(h), 2)[:, :, :height, :width])
        location, log_scale = self.out(h).chunk(2, dim=1)
        return location, log_scale
