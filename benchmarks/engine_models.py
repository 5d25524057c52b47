"""Small models with random weights, one of each family that the engine is measured on.

Each has ``log_prob(x, *, seed=0, keys=None) -> (n,)`` in the shape, if not the quality, of the real thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ActNorm(nn.Module):
    """Scale and shift a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(0.1 * torch.randn(1, channels, 1, 1))
        self.logs = nn.Parameter(0.1 * torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det|."""
        return (x + self.bias) * torch.exp(self.logs), self.logs.sum() * x.shape[2] * x.shape[3]


class Mixing(nn.Module):
    """Invertible 1x1 convolution, plain or by its LU factors."""

    p: Tensor
    sign: Tensor

    def __init__(self, channels: int, lu: bool) -> None:
        super().__init__()
        weight = torch.linalg.qr(torch.randn(channels, channels))[0]
        self.lu = lu
        if lu:
            p, lower, upper = torch.linalg.lu(weight)
            diagonal = upper.diagonal()
            self.register_buffer("p", p)
            self.register_buffer("sign", diagonal.sign())
            self.lower, self.upper = nn.Parameter(lower), nn.Parameter(upper)
            self.logs = nn.Parameter(diagonal.abs().log())
        else:
            self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det|."""
        size = x.shape[2] * x.shape[3]
        if not self.lu:
            return F.conv2d(x, self.weight[:, :, None, None]), torch.linalg.slogdet(self.weight)[1] * size
        eye = torch.eye(len(self.p), dtype=x.dtype, device=x.device)
        lower = self.lower.tril(-1) + eye
        upper = self.upper.triu(1) + torch.diag(self.sign * torch.exp(self.logs))
        return F.conv2d(x, (self.p @ lower @ upper)[:, :, None, None]), self.logs.sum() * size


class Glow(nn.Module):
    """Kingma and Dhariwal 2018, likelihood only."""

    def __init__(self, channels: int = 3, levels: int = 3, steps: int = 6, hidden: int = 64, lu: bool = False) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        c = channels
        for _ in range(levels):
            c *= 4
            self.levels.append(
                nn.ModuleList(nn.ModuleList([ActNorm(c), Mixing(c, lu), _net(c, hidden)]) for _ in range(steps))
            )
            c //= 2

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: object = None) -> Tensor:
        """Log-likelihood of images (n, C, H, W)."""
        x = x / 256 - 0.5
        total = x.new_zeros(len(x))
        for level in self.levels:
            x = F.pixel_unshuffle(x, 2)
            for norm, mixing, net in cast("Iterable[nn.ModuleList]", level):
                x, first = norm(x)
                x, second = mixing(x)
                a, b = x.chunk(2, 1)
                shift, raw = net(a).chunk(2, 1)
                scale = torch.sigmoid(raw + 2)
                x = torch.cat([a, (b + shift) * scale], 1)
                total = total + first + second + scale.log().flatten(1).sum(1)
            x, z = x.chunk(2, 1)
            total = total + _normal(z)
        return total + _normal(x)


class ConvVAE(nn.Module):
    """Evidence lower bound with one latent sample a key."""

    def __init__(self, channels: int = 3, width: int = 32, latent: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 2 * latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, 64 * width), nn.ReLU(), nn.Unflatten(1, (4 * width, 4, 4)),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, channels, 4, 2, 1),
        )  # fmt: skip
        self.latent = latent

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: object = None) -> Tensor:
        """ELBO of images (n, C, 32, 32)."""
        x = x / 256
        mean, logs = self.encoder(x).chunk(2, 1)
        angle = x.detach().flatten(1).sum(1, keepdim=True) * torch.arange(1, self.latent + 1, dtype=x.dtype)
        z = mean + torch.exp(logs) * torch.sin(angle)
        divergence = 0.5 * (mean.square() + (2 * logs).exp() - 1 - 2 * logs).sum(1)
        return -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").flatten(1).sum(1) - divergence


class GatedPixelCNN(nn.Module):
    """Van den Oord et al. 2016: vertical and horizontal stacks with masked weights, 256 levels."""

    mask_v: Tensor
    mask_a: Tensor
    mask_b: Tensor

    def __init__(self, width: int = 32, layers: int = 5, levels: int = 256) -> None:
        super().__init__()
        self.width = width
        vertical = torch.ones(1, 1, 5, 5)
        vertical[:, :, 2:] = 0
        row_a, row_b = torch.ones(2, 1, 1, 1, 5).unbind()
        row_a[..., 2:] = 0
        row_b[..., 3:] = 0
        for name, mask in (("mask_v", vertical), ("mask_a", row_a), ("mask_b", row_b)):
            self.register_buffer(name, mask)
        channels = [1] + [width] * layers
        self.v = nn.ModuleList(nn.Conv2d(c, 2 * width, 5, padding=2) for c in channels[:-1])
        self.h = nn.ModuleList(nn.Conv2d(c, 2 * width, (1, 5), padding=(0, 2)) for c in channels[:-1])
        self.link = nn.ModuleList(nn.Conv2d(2 * width, 2 * width, 1) for _ in range(layers))
        self.skip = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, 64, 1), nn.ReLU(), nn.Conv2d(64, levels, 1))

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: object = None) -> Tensor:
        """Log-likelihood of grey images (n, 1, H, W)."""
        v = h = x / 128 - 1
        layers = cast("Iterable[tuple[nn.Conv2d, ...]]", zip(self.v, self.h, self.link, self.skip, strict=True))
        for i, (conv_v, conv_h, link, skip) in enumerate(layers):
            pre = F.conv2d(v, conv_v.weight * self.mask_v, conv_v.bias, padding=2)
            mask = self.mask_b if i else self.mask_a
            row = F.conv2d(h, conv_h.weight * mask, conv_h.bias, padding=(0, 2)) + link(pre)
            v = _gate(pre)
            out = skip(_gate(row))
            h = h + out if i else out
        logits = self.head(h)
        return -F.cross_entropy(logits, x[:, 0].long(), reduction="none").flatten(1).sum(1)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with a time embedding between."""

    def __init__(self, c_in: int, c_out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(time, c_out)
        self.norm2, self.conv2 = nn.GroupNorm(8, c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(n, c_in, H, W) -> (n, c_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Self-attention over positions."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.GroupNorm(8, c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, H, W) -> (n, c, H, W)."""
        q, k, v = self.qkv(self.norm(x).flatten(2)).mT.chunk(3, 2)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).mT).view_as(x)


class DiffusionUNet(nn.Module):
    """Denoising error at one timestep, the noise a function of the sample."""

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        w, time = width, 4 * width
        self.time = nn.Sequential(nn.Linear(w, time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(channels, w, 3, padding=1)
        self.down1, self.shrink1 = ResBlock(w, w, time), nn.Conv2d(w, w, 3, 2, 1)
        self.down2, self.shrink2 = ResBlock(w, 2 * w, time), nn.Conv2d(2 * w, 2 * w, 3, 2, 1)
        self.mid1, self.attention, self.mid2 = (
            ResBlock(2 * w, 2 * w, time),
            Attention(2 * w),
            ResBlock(2 * w, 2 * w, time),
        )
        self.up2, self.up1 = ResBlock(4 * w, w, time), ResBlock(2 * w, w, time)
        self.last_norm, self.last = nn.GroupNorm(8, w), nn.Conv2d(w, channels, 3, padding=1)
        self.width = w

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: object = None) -> Tensor:
        """Minus half the squared error of the predicted noise, (n, C, 28, 28)."""
        x = x / 128 - 1
        noise = torch.sin(1000 * x + torch.arange(x[0].numel(), dtype=x.dtype, device=x.device).view(x[0].shape))
        noisy = math.sqrt(0.7) * x + math.sqrt(0.3) * noise
        frequencies = torch.arange(self.width, dtype=x.dtype, device=x.device) / self.width
        t = self.time(torch.sin(100 * frequencies).expand(len(x), -1) + 0 * x.flatten(1)[:, :1])
        a = self.down1(self.first(noisy), t)
        b = self.down2(self.shrink1(a), t)
        h = self.mid2(self.attention(self.mid1(self.shrink2(b), t)), t)
        h = self.up2(torch.cat([F.interpolate(h, scale_factor=2.0), b], 1), t)
        h = self.up1(torch.cat([F.interpolate(h, scale_factor=2.0), a], 1), t)
        out = self.last(F.silu(self.last_norm(h)))
        return -0.5 * (out - noise).square().flatten(1).sum(1)


class Block(nn.Module):
    """Pre-norm causal transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, T, D) -> (n, T, D)."""
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2 in small, embedding tied to the output layer."""

    def __init__(self, vocabulary: int = 256, length: int = 128, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: object = None) -> Tensor:
        """Log-likelihood of token sequences (n, T) after their first token."""
        h = self.tokens(x[:, :-1]) + self.positions(torch.arange(x.shape[1] - 1, device=x.device))
        logits = F.linear(self.norm(self.blocks(h)), self.tokens.weight)
        return -F.cross_entropy(logits.mT, x[:, 1:], reduction="none").sum(1)


@dataclass(frozen=True)
class Case:
    """A model of the bench and its input."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    high: int = 256
    integer: bool = False

    def build(self) -> nn.Module:
        """Return the model, random weights, eval mode."""
        torch.manual_seed(0)
        return self.make().eval()

    def batch(self, n: int) -> Tensor:
        """Return n random samples."""
        x = torch.randint(self.high, (n, *self.shape), generator=torch.Generator().manual_seed(1))
        return x if self.integer else x.float()


CASES = {
    "Glow, hidden 48": Case(lambda: Glow(hidden=48), (3, 32, 32)),
    "Glow, hidden 128": Case(lambda: Glow(steps=4, hidden=128), (3, 32, 32)),
    "LU Glow, hidden 48": Case(lambda: Glow(hidden=48, lu=True), (3, 32, 32)),
    "conv VAE": Case(ConvVAE, (3, 32, 32)),
    "gated PixelCNN": Case(GatedPixelCNN, (1, 28, 28)),
    "UNet, attention": Case(DiffusionUNet, (1, 28, 28)),
    "GPT-2-like": Case(GPT, (65,), integer=True),
}


def _net(c: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c // 2, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(),
        nn.Conv2d(hidden, c, 3, padding=1),
    )  # fmt: skip


def _normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)
