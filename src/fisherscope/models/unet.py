"""A compact UNet that predicts the noise in a noisy image (Ho et al. 2020, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fisherscope.models.initial import zero_

_GROUPS = 8


def timestep_embedding(t: Tensor, size: int) -> Tensor:
    """Return sines and cosines of timesteps t (n,), shape (n, size) (Vaswani et al. 2017, section 3.5)."""
    frequencies = torch.exp(torch.arange(size // 2, dtype=t.dtype, device=t.device) * (-2 * math.log(10_000) / size))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions with group normalisation, the timestep added between them, and a skip."""

    def __init__(self, channels: int, out_channels: int, time_size: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_size, out_channels)
        self.norm2 = nn.GroupNorm(_GROUPS, out_channels)
        self.conv2 = zero_(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the block's output for x (n, C, H, W) and the timestep's features (n, T)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        out: Tensor = self.skip(x) + self.conv2(F.silu(self.norm2(h)))
        return out


class Attention(nn.Module):
    """Self-attention between all positions, with a skip."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x (n, C, H, W)."""
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, h, w)
        out: Tensor = x + self.out(attended)
        return out


class UNet(nn.Module):
    """Noise predictor with one residual block a resolution on the way down and on the way up.

    Args:
        data_channels: channels of the images.
        channels: channels at the first resolution, a multiple of 16.
        multipliers: channels of each further resolution, as multiples of ``channels``.
        heads: attention heads at the lowest resolution.
        patch: side of the squares of pixels that become channels first; 2 makes every layer four times cheaper.
    """

    def __init__(self, data_channels: int, channels: int, multipliers: Sequence[int], heads: int, patch: int) -> None:
        super().__init__()
        self.patch, self.channels = patch, channels
        widths = [channels * m for m in multipliers]
        time_size = 4 * channels
        self.time = nn.Sequential(nn.Linear(channels, time_size), nn.SiLU(), nn.Linear(time_size, time_size))
        inner = data_channels * patch**2
        self.first = nn.Conv2d(inner, widths[0], 3, padding=1)
        before = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(ResidualBlock(a, b, time_size) for a, b in zip(before, widths, strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle1 = ResidualBlock(widths[-1], widths[-1], time_size)
        self.attention = Attention(widths[-1], heads)
        self.middle2 = ResidualBlock(widths[-1], widths[-1], time_size)
        self.up = nn.ModuleList(ResidualBlock(2 * b, a, time_size) for a, b in zip(before, widths, strict=True))
        self.grow = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for w in widths[:-1])
        self.norm = nn.GroupNorm(_GROUPS, widths[0])
        self.last = zero_(nn.Conv2d(widths[0], inner, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted noise (n, C, H, W) in images x (n, C, H, W) at timesteps t (n,)."""
        time = F.silu(self.time(timestep_embedding(t, self.channels)))
        h = self.first(F.pixel_unshuffle(x, self.patch))
        skips: list[Tensor] = []
        for i, block in enumerate(self.down):
            h = self.shrink[i - 1](h) if i else h
            h = block(h, time)
            skips.append(h)
        h = self.middle2(self.attention(self.middle1(h, time)), time)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = self.grow[i](F.interpolate(h, size=skips[i].shape[2:], mode="nearest"))
            h = self.up[i](torch.cat([h, skips[i]], dim=1), time)
        return F.pixel_shuffle(self.last(F.silu(self.norm(h))), self.patch)
