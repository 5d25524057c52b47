"""Variational autoencoder of images (Kingma & Welling 2014, arXiv 1312.6114)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.discretised import logistic_log_prob
from fisherscope.models.initial import initial_seed
from fisherscope.models.noise import keys_of, normal_noise, uniform_noise
from fisherscope.models.vae_nets import Decoder, Encoder

Likelihood = Literal["logistic", "gaussian"]
_LATENT_STREAM, _DEQUANTISATION_STREAM = 0, 1
_LARGEST_LOG_VARIANCE = 10.0
_DRAWS = 16
_LOG_2_PI = math.log(2 * math.pi)


class VAE(GenerativeModel):
    """VAE with strided convolutions and a standard normal prior.

    ``log_prob`` is the importance-weighted bound of ``importance_samples`` latents (Burda et al. 2016, eq. 8), which
    for one latent is the evidence lower bound.

    Args:
        data_shape: (C, H, W).
        latents: dimensions of z.
        hidden: channels of the first convolution.
        likelihood: ``logistic`` (discretised, per pixel location and scale) or ``gaussian`` (per pixel mean and
            variance, of uniformly dequantised levels).
        importance_samples: latents a sample, K.
        init_seed: seed of the initial weights.
    """

    family: ClassVar[str] = "vae"
    statistic_names = ("cross_entropy", "entropy", "divergence", "log_likelihood", "importance_weighted")

    def __init__(
        self,
        data_shape: tuple[int, int, int] = (3, 32, 32),
        latents: int = 64,
        hidden: int = 32,
        likelihood: Likelihood = "logistic",
        importance_samples: int = 1,
        init_seed: int = 0,
    ) -> None:
        super().__init__(tuple(data_shape), (0.0, 255.0))
        _check_settings(self.data_shape, latents, hidden, likelihood, importance_samples)
        self._config = {
            "data_shape": list(data_shape),
            "latents": latents,
            "hidden": hidden,
            "likelihood": likelihood,
            "importance_samples": importance_samples,
            "init_seed": init_seed,
        }
        self.latents, self.likelihood, self.importance_samples = latents, likelihood, importance_samples
        sizes = [(data_shape[1], data_shape[2])]
        for _ in range(3):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        with initial_seed(init_seed):
            self.encoder = Encoder(data_shape, sizes, hidden, latents)
            self.decoder = Decoder(data_shape, sizes, hidden, latents)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the importance-weighted bound of log P(x) in nats, (n,)."""
        log_weights = self.log_weights(x, self.importance_samples, seed=seed, keys=keys)
        return log_weights.logsumexp(1) - math.log(self.importance_samples)

    def log_weights(self, x: Tensor, count: int, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return log p(x, z_k) - log q(z_k | x) for ``count`` latents z_k ~ q(z | x), shape (n, count)."""
        mean, log_variance = self.encode(x)
        return self.log_weights_at(x, mean, log_variance, count, seed=seed, keys=keys)[0]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z | x) for images x (n, C, H, W), (n, latents) each."""
        mean, log_variance = self.encoder(self.check_batch(x) / 127.5 - 1)
        # On images that the encoder has never learnt it can run away, and a latent of e^20 takes log p with it to -inf.
        return mean, log_variance.clamp(max=_LARGEST_LOG_VARIANCE)

    def log_weights_at(
        self,
        x: Tensor,
        mean: Tensor,
        log_variance: Tensor,
        count: int,
        *,
        seed: int,
        keys: KeyArray | None,
        stream: int = _LATENT_STREAM,
    ) -> tuple[Tensor, Tensor]:
        """Return log p(x, z_k) - log q(z_k) and log p(x | z_k), (n, count) each, of latents from a given normal q.

        Args:
            x: images (n, C, H, W).
            mean: of q, (n, latents).
            log_variance: of q, (n, latents).
            count: latents a sample.
            seed: seed of the latents' noise.
            keys: keys of the original samples; the noise depends on nothing else, so that two q can be compared.
            stream: number of the latents' noise, 0 or above 1.
        """
        keys = keys_of(x, keys)
        x = self.check_batch(x)
        noise = normal_noise(keys, (count, self.latents), seed=seed, stream=stream, like=x)
        z = mean[:, None] + (0.5 * log_variance).exp()[:, None] * noise
        log_q = -0.5 * (noise.square() + log_variance[:, None] + _LOG_2_PI).sum(2)
        log_prior = -0.5 * (z.square() + _LOG_2_PI).sum(2)
        location, log_scale = self._decode(z.flatten(0, 1))
        shape = (len(x), count, *self.data_shape)
        likelihood = self._log_likelihood(x, location.reshape(shape), log_scale.reshape(shape), keys, seed)
        return likelihood + log_prior - log_q, likelihood

    def statistics(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the five statistics of Morningstar et al. (2021) for a VAE, (n, 5).

        Cross-entropy of q(z | x) and the prior, entropy of q(z | x) and their difference, the divergence, exact; mean
        of log p(x | z) and importance-weighted bound from 16 latents.
        """
        mean, log_variance = self.encode(x)
        log_weights, likelihood = self.log_weights_at(x, mean, log_variance, _DRAWS, seed=seed, keys=keys)
        cross = 0.5 * (mean.square() + log_variance.exp() + _LOG_2_PI).sum(1)
        entropy = 0.5 * (log_variance + 1 + _LOG_2_PI).sum(1)
        bound = log_weights.logsumexp(1) - math.log(_DRAWS)
        return torch.stack([cross, entropy, cross - entropy, likelihood.mean(1), bound], dim=1)

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and log scale in levels, (n, C, H, W) each."""
        location, log_scale = self.decoder(z)
        return (location + 1) * 127.5, log_scale + math.log(16.0)

    def _log_likelihood(self, x: Tensor, location: Tensor, log_scale: Tensor, keys: KeyArray, seed: int) -> Tensor:
        if self.likelihood == "logistic":
            return logistic_log_prob(x[:, None], location, log_scale).flatten(2).sum(2)
        # The density of x + u bounds the probability of the level x (Theis et al. 2016, section 3.1); without u it
        # could grow without end on a constant background.
        u = uniform_noise(keys, self.data_shape, seed=seed, stream=_DEQUANTISATION_STREAM, like=x)
        standard = ((x + u)[:, None] - 0.5 - location) * (-log_scale).exp()
        return -(0.5 * standard.square() + log_scale + 0.5 * _LOG_2_PI).flatten(2).sum(2)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n images, uint8 (n, C, H, W), with the likelihood's own noise."""
        like = next(self.parameters())
        keys = np.arange(n, dtype=np.uint64)
        location, log_scale = self._decode(normal_noise(keys, (self.latents,), seed=seed, like=like))
        if self.likelihood == "logistic":
            u = uniform_noise(keys, self.data_shape, seed=seed, stream=1, like=like)
            noise = torch.logit(u, eps=1e-6)
        else:
            noise = normal_noise(keys, self.data_shape, seed=seed, stream=1, like=like)
        return (location + log_scale.exp() * noise).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def mean_image(self, n: int, *, seed: int = 0) -> Tensor:
        """Return the locations of n samples without the likelihood's noise, uint8 (n, C, H, W), as papers show them."""
        like = next(self.parameters())
        z = normal_noise(np.arange(n, dtype=np.uint64), (self.latents,), seed=seed, like=like)
        return self._decode(z)[0].round().clamp(0, 255).to(torch.uint8)


def _check_settings(
    data_shape: Sequence[int], latents: int, hidden: int, likelihood: str, importance_samples: int
) -> None:
    if len(data_shape) != 3:
        raise SettingError(f"data_shape is {tuple(data_shape)}, expected (channels, height, width)")
    if min(latents, hidden, importance_samples) < 1:
        raise SettingError(
            f"latents ({latents}), hidden ({hidden}) and importance_samples ({importance_samples}) must be at least 1"
        )
    if likelihood not in get_args(Likelihood):
        raise SettingError(f"likelihood is '{likelihood}', expected one of {', '.join(get_args(Likelihood))}")
