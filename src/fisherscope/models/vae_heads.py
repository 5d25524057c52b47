"""The likelihoods of a VAE: from features of the pixels, all at once, to the distribution of each."""

from __future__ import annotations

import math
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from fisherscope.core.keys import KeyArray
from fisherscope.models.discretised import logistic_log_prob, nearest_levels
from fisherscope.models.noise import normal_noise, uniform_noise
from fisherscope.models.pixel_heads import MixtureHead

_NOISE_STREAM = 1
_LOG_2_PI = math.log(2 * math.pi)


class LogisticHead(nn.Conv2d):
    """A discretised logistic for each channel of a pixel by itself.

    Args:
        features: channels of the features.
        data_channels: channels of a pixel.

    Attributes:
        dequantises: whether the likelihood is the density of levels that are spread over their bins.
    """

    dequantises: ClassVar[bool] = False

    def __init__(self, features: int, data_channels: int) -> None:
        super().__init__(features, 2 * data_channels, 3, padding=1)

    def located(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and log scale in levels, (n, C, H, W) each, for features (n, F, H, W)."""
        location, log_scale = self(features).chunk(2, dim=1)
        return (location + 1) * 127.5, log_scale + math.log(16.0)

    def log_likelihood(self, features: Tensor, x: Tensor) -> Tensor:
        """Return log p of images x (n, C, H, W), (n,)."""
        return logistic_log_prob(x, *self.located(features)).flatten(1).sum(1)

    def mean(self, features: Tensor) -> Tensor:
        """Return the mean before levels are rounded, (n, C, H, W)."""
        return self.located(features)[0]

    def drawn(self, features: Tensor, keys: KeyArray, seed: int) -> Tensor:
        """Return images, uint8 (n, C, H, W), whose noise depends on keys and seed alone."""
        location, log_scale = self.located(features)
        return nearest_levels(location + log_scale.exp() * self._noise(keys, location, seed))

    def _noise(self, keys: KeyArray, like: Tensor, seed: int) -> Tensor:
        u = uniform_noise(keys, tuple(like.shape[1:]), seed=seed, stream=_NOISE_STREAM, like=like)
        return torch.logit(u, eps=1e-6)


class GaussianHead(LogisticHead):
    """A normal density of dequantised levels for each channel of a pixel by itself.

    The density of x + u bounds the probability of the level x (Theis et al. 2016, section 3.1); without u it could grow
    without end on a constant background.
    """

    dequantises = True

    def log_likelihood(self, features: Tensor, x: Tensor) -> Tensor:
        location, log_scale = self.located(features)
        standard = (x - location) * (-log_scale).exp()
        return -(0.5 * standard.square() + log_scale + 0.5 * _LOG_2_PI).flatten(1).sum(1)

    def _noise(self, keys: KeyArray, like: Tensor, seed: int) -> Tensor:
        return normal_noise(keys, tuple(like.shape[1:]), seed=seed, stream=_NOISE_STREAM, like=like)


class MixtureOfLogistics(MixtureHead):
    """A mixture of discretised logistics for all channels of a pixel; the rest as :class:`LogisticHead`."""

    dequantises: ClassVar[bool] = False

    def log_likelihood(self, features: Tensor, x: Tensor) -> Tensor:
        """Return log p of images x (n, C, H, W), (n,)."""
        log_p: Tensor = self(features, x)
        return log_p.flatten(1).sum(1)

    def drawn(self, features: Tensor, keys: KeyArray, seed: int) -> Tensor:
        """Return images, uint8 (n, C, H, W), whose noise depends on keys and seed alone."""
        places = (*features.shape[2:], self.data_channels + 1)
        u = uniform_noise(keys, places, seed=seed, stream=_NOISE_STREAM, like=features)
        pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
        drawn = self.draw(pixels[:, :, None, None], u.flatten(0, 2))
        return nearest_levels(drawn.reshape(*u.shape[:3], -1).permute(0, 3, 1, 2))


HEADS: Final[dict[str, type[LogisticHead] | type[MixtureOfLogistics]]] = {
    "logistic": LogisticHead,
    "gaussian": GaussianHead,
    "mixture": MixtureOfLogistics,
}
"""By the name of the likelihood."""
