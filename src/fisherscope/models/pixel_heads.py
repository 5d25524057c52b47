"""From features of the pixels before to the distribution of the next pixel, channel after channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fisherscope.models.discretised import logistic_log_prob, scaled

_LEVELS = 256


class SoftmaxHead(nn.Module):
    """A softmax over the 256 levels of each channel, given the features and the channels before it.

    Args:
        features: channels of the features.
        data_channels: channels of a pixel.
    """

    def __init__(self, features: int, data_channels: int) -> None:
        super().__init__()
        self.channels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(features + c, features, 1), nn.ReLU(), nn.Conv2d(features, _LEVELS, 1))
            for c in range(data_channels)
        )

    def _log_softmax(self, features: Tensor, x: Tensor, channel: int) -> Tensor:
        before = torch.cat([features, scaled(x[:, :channel])], dim=1)
        return F.log_softmax(self.channels[channel](before), dim=1)

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Return log P of each level of x (n, C, H, W) given all before it, from features (n, F, H, W)."""
        picked = [
            self._log_softmax(features, x, c).gather(1, x[:, c : c + 1].long()) for c in range(len(self.channels))
        ]
        return torch.cat(picked, dim=1)

    def draw(self, features: Tensor, u: Tensor) -> Tensor:
        """Return levels (n, C) of one pixel for its features (n, F, 1, 1) and uniform noise u (n, C + 1)."""
        x = features.new_zeros(len(features), len(self.channels), 1, 1)
        for c in range(len(self.channels)):
            cumulative = self._log_softmax(features, x, c)[:, :, 0, 0].double().exp().cumsum(1)
            x[:, c, 0, 0] = (cumulative < u[:, c : c + 1] * cumulative[:, -1:]).sum(1).to(x)
        return x[:, :, 0, 0]


class MixtureHead(nn.Module):
    """A mixture of discretised logistics whose means move linearly with the channels before (Salimans et al. 2017).

    Args:
        features: channels of the features.
        data_channels: channels of a pixel.
        components: logistics in the mixture.
    """

    def __init__(self, features: int, data_channels: int, components: int) -> None:
        super().__init__()
        self.components, self.data_channels = components, data_channels
        self.pairs = data_channels * (data_channels - 1) // 2
        self.net = nn.Sequential(
            nn.Conv2d(features, features, 1),
            nn.ReLU(),
            nn.Conv2d(features, components * (1 + 2 * data_channels + self.pairs), 1),
        )

    def _parameters_of(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log weights (n, K, H, W), means and log scales (n, K, C, H, W) in levels, coefficients."""
        out = self.net(features)
        n, _, height, width = out.shape
        out = out.reshape(n, self.components, -1, height, width)
        c = self.data_channels
        weight, mean, log_scale, coefficients = out.split([1, c, c, self.pairs], dim=2)
        # Components start spread over the range, with scales of about 16 levels.
        spread = torch.linspace(-1, 1, self.components + 2, dtype=out.dtype, device=out.device)[1:-1]
        mean = (mean + spread[:, None, None, None] + 1) * 127.5
        return F.log_softmax(weight[:, :, 0], dim=1), mean, log_scale + math.log(16.0), coefficients.tanh()

    def mean(self, features: Tensor) -> Tensor:
        """Return the mean of the mixture before levels are rounded, (n, C, H, W), for features (n, F, H, W)."""
        log_weight, mean, _, coefficients = self._parameters_of(features)
        of_components: list[Tensor] = []
        for c in range(self.data_channels):
            before = torch.stack(of_components, dim=2) if c else mean[:, :, :0]
            of_components.append(self._mean(mean, coefficients, before, c))
        return (log_weight.exp()[:, :, None] * torch.stack(of_components, dim=2)).sum(1)

    def _mean(self, mean: Tensor, coefficients: Tensor, x: Tensor, channel: int) -> Tensor:
        """Return the means (n, K, H, W) of a channel given x (n, 1 or K, C, H, W), of which earlier channels count."""
        moved = mean[:, :, channel]
        first = channel * (channel - 1) // 2
        for c in range(channel):
            moved = moved + coefficients[:, :, first + c] * (x[:, :, c] - 127.5)
        return moved

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Return log P of each level of x (n, C, H, W) given all before it, from features (n, F, H, W)."""
        joint, mean, log_scale, coefficients = self._parameters_of(features)
        before = torch.zeros_like(joint[:, 0])
        conditionals = []
        for c in range(self.data_channels):
            location = self._mean(mean, coefficients, x[:, None], c)
            joint = joint + logistic_log_prob(x[:, None, c], location, log_scale[:, :, c])
            after = joint.logsumexp(1)
            conditionals.append(after - before)
            before = after
        return torch.stack(conditionals, dim=1)

    def draw(self, features: Tensor, u: Tensor) -> Tensor:
        """Return levels (n, C) of one pixel for its features (n, F, 1, 1) and uniform noise u (n, C + 1)."""
        log_weight, mean, log_scale, coefficients = self._parameters_of(features)
        cumulative = log_weight[:, :, 0, 0].double().exp().cumsum(1)
        chosen = (cumulative < u[:, -1:] * cumulative[:, -1:]).sum(1)
        rows = torch.arange(len(u), device=u.device)
        x = features.new_zeros(len(features), self.data_channels, 1, 1)
        for c in range(self.data_channels):
            location = self._mean(mean, coefficients, x[:, None], c)[rows, chosen, 0, 0]
            scale = log_scale[rows, chosen, c, 0, 0].exp()
            value = location + scale * torch.logit(u[:, c], eps=1e-6)
            x[:, c, 0, 0] = value.round().clamp(0, _LEVELS - 1)
        return x[:, :, 0, 0]
