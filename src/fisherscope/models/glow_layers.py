"""Layers of Glow: each is a map with its log-determinant, and the inverse (Kingma & Dhariwal 2018, section 3)."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Permutation = Literal["plain", "lu"]
_PRIOR_LOG_RANGE: Final = 4.0


def squeeze(x: Tensor) -> Tensor:
    """Return (n, 4 C, H/2, W/2): each 2 x 2 square of pixels becomes four channels."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(x: Tensor) -> Tensor:
    """Return (n, C/4, 2 H, 2 W), the inverse of :func:`squeeze`."""
    return F.pixel_shuffle(x, 2)


def _halves(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    return x[:, :first], x[:, first:]


class ActNorm(nn.Module):
    """Scale and shift per channel (section 3.1): y = (x + shift) exp(log_scale)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set shift and scale so that this batch leaves with mean 0 and variance 1 in every channel."""
        std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
        self.shift.copy_(-mean[0])
        self.log_scale.copy_(-(std[0] + 1e-6).log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and log|det J|, a scalar that is the same for every sample."""
        return (x + self.shift) * self.log_scale.exp(), self.log_scale.sum() * (x.shape[2] * x.shape[3])

    def inverse(self, y: Tensor) -> Tensor:
        """Return x for y."""
        return y * (-self.log_scale).exp() - self.shift


class PlainPermutation(nn.Module):
    """Invertible 1x1 convolution with an unconstrained matrix (section 3.2)."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
        self.weight = nn.Parameter(rotation)

    def matrix(self) -> Tensor:
        """Return W, shape (C, C)."""
        return self.weight

    def log_abs_det(self) -> Tensor:
        """Return log|det W|, a scalar."""
        log_abs_det: Tensor = torch.linalg.slogdet(self.weight).logabsdet
        return log_abs_det


class LUPermutation(nn.Module):
    """Invertible 1x1 convolution in LU form (section 3.2, eq. 10-11): W = P L (U + diag(sign exp(log_diagonal)))."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())

    def matrix(self) -> Tensor:
        """Return W, shape (C, C)."""
        unit = torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        diagonal = torch.diag(self.sign * self.log_diagonal.exp())
        return self.permutation @ (self.lower.tril(-1) + unit) @ (self.upper.triu(1) + diagonal)

    def log_abs_det(self) -> Tensor:
        """Return log|det W|, a scalar."""
        return self.log_diagonal.sum()


class Coupling(nn.Module):
    """Affine coupling (section 3.3): one half of the channels scales, by 1/e to e, and shifts the other."""

    def __init__(self, channels: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        kept, changed = channels // 2, channels - channels // 2
        self.net = nn.Sequential(
            nn.Conv2d(kept, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * changed, 3, padding=1),
        )
        _initialise_convolutions(self.net, generator)

    def _shift_and_log_scale(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.net(kept).chunk(2, dim=1)
        # Bounded on both sides: with the authors' sigmoid a scale can come so near 0 that sampling overflows.
        return shift, raw.tanh()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and log|det J| per sample, shape (n,)."""
        kept, changed = _halves(x, x.shape[1] // 2)
        shift, log_scale = self._shift_and_log_scale(kept)
        return torch.cat([kept, (changed + shift) * log_scale.exp()], dim=1), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return x for y."""
        kept, changed = _halves(y, y.shape[1] // 2)
        shift, log_scale = self._shift_and_log_scale(kept)
        return torch.cat([kept, changed * (-log_scale).exp() - shift], dim=1)


def _initialise_convolutions(net: nn.Sequential, generator: torch.Generator) -> None:
    convolutions = [m for m in net if isinstance(m, nn.Conv2d)]
    for convolution in convolutions[:-1]:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    nn.init.zeros_(convolutions[-1].weight)
    nn.init.zeros_(convolutions[-1].bias)  # type: ignore[arg-type]


class Step(nn.Module):
    """One step of flow: actnorm, invertible 1x1 convolution, affine coupling."""

    def __init__(self, channels: int, hidden: int, permutation: Permutation, generator: torch.Generator) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        kind = LUPermutation if permutation == "lu" else PlainPermutation
        self.permutation: PlainPermutation | LUPermutation = kind(channels, generator)
        self.coupling = Coupling(channels, hidden, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and log|det J| per sample, shape (n,)."""
        x, log_det = self.actnorm(x)
        log_det = log_det + self.permutation.log_abs_det() * (x.shape[2] * x.shape[3])
        x = F.conv2d(x, self.permutation.matrix()[:, :, None, None])
        x, coupling_log_det = self.coupling(x)
        return x, log_det + coupling_log_det

    def inverse(self, y: Tensor) -> Tensor:
        """Return x for y."""
        y = self.coupling.inverse(y)
        y = F.conv2d(y, torch.linalg.inv(self.permutation.matrix())[:, :, None, None])
        inverted: Tensor = self.actnorm.inverse(y)
        return inverted


class Split(nn.Module):
    """Half of the channels leave the flow; their prior is a normal whose mean and scale the other half predicts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prior = nn.Conv2d(channels - channels // 2, 2 * (channels // 2), 3, padding=1)
        nn.init.zeros_(self.prior.weight)
        nn.init.zeros_(self.prior.bias)  # type: ignore[arg-type]

    def _mean_and_log_std(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.prior(kept).chunk(2, dim=1)
        # Bounded for the same reason as the coupling's scale.
        return mean, _PRIOR_LOG_RANGE * (raw / _PRIOR_LOG_RANGE).tanh()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the kept half, the standardised half that leaves, and its log|det J| per sample (n,)."""
        kept, leaving = _halves(x, x.shape[1] - x.shape[1] // 2)
        mean, log_std = self._mean_and_log_std(kept)
        return kept, (leaving - mean) * (-log_std).exp(), -log_std.flatten(1).sum(1)

    def inverse(self, kept: Tensor, noise: Tensor) -> Tensor:
        """Return x for the kept half and the standardised half."""
        mean, log_std = self._mean_and_log_std(kept)
        return torch.cat([kept, noise * log_std.exp() + mean], dim=1)


class Scale(nn.Module):
    """One level of the multi-scale architecture (figure 2b): squeeze, K steps of flow, split (except on the last)."""

    def __init__(
        self,
        channels: int,
        steps: int,
        hidden: int,
        permutation: Permutation,
        generator: torch.Generator,
        *,
        split: bool,
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Step(channels, hidden, permutation, generator) for _ in range(steps))
        self.split = Split(channels) if split else None

    def _steps(self) -> list[Step]:
        return [step for step in self.steps if isinstance(step, Step)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what goes on (nothing on the last level), the latent that leaves, and log|det J| per sample (n,)."""
        x = squeeze(x)
        log_det = x.new_zeros(len(x))
        for step in self.steps:
            x, step_log_det = step(x)
            log_det = log_det + step_log_det
        if self.split is None:
            return x[:, :0], x, log_det
        kept, latent, split_log_det = self.split(x)
        return kept, latent, log_det + split_log_det

    def inverse(self, kept: Tensor, latent: Tensor) -> Tensor:
        """Return x for what went on and the latent that left."""
        x = latent if self.split is None else self.split.inverse(kept, latent)
        for step in reversed(self._steps()):
            x = step.inverse(x)
        return unsqueeze(x)

    def initialise(self, x: Tensor) -> Tensor:
        """Set the actnorms from this batch, in order, and return what goes on to the next level."""
        x = squeeze(x)
        for step in self._steps():
            step.actnorm.initialise(x)
            x, _ = step(x)
        return x if self.split is None else self.split(x)[0]
