"""Variational autoencoder of images (Kingma & Welling 2014, arXiv 1312.6114)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.discretised import nearest_levels, scaled
from fisherscope.models.initial import initial_seed
from fisherscope.models.noise import keys_of, normal_noise, uniform_noise
from fisherscope.models.vae_heads import HEADS
from fisherscope.models.vae_nets import GridDecoder, GridEncoder, VectorDecoder, VectorEncoder

Likelihood = Literal["logistic", "gaussian", "mixture"]
Layout = Literal["vector", "grid"]
_LATENT_STREAM, _DEQUANTISATION_STREAM = 0, 1
_LARGEST_LOG_VARIANCE = 10.0
_DRAWS = 16
_LOG_2_PI = math.log(2 * math.pi)


class VAE(GenerativeModel):
    """VAE with convolutions and a standard normal prior.

    ``log_prob`` is the importance-weighted bound of ``importance_samples`` latents (Burda et al. 2016, eq. 8), which
    for one latent is the evidence lower bound.

    Args:
        data_shape: (C, H, W).
        latents: dimensions of z, or of each of its vectors where ``layout`` is ``grid``.
        hidden: channels of the first convolution.
        likelihood: ``logistic`` (discretised, location and scale for each channel of a pixel by itself), ``gaussian``
            (mean and variance for each, of uniformly dequantised levels) or ``mixture`` (of discretised logistics,
            channel after channel: Salimans et al. 2017).
        layout: ``vector``, one z for the image behind strided convolutions and linear layers, or ``grid``, one for
            each place of 2 x 2 pixels behind residual blocks, which loses far less of a photograph.
        components: logistics in the mixture.
        blocks: residual blocks of the encoder and of the decoder of a grid.
        importance_samples: latents a sample, K.
        init_seed: seed of the initial weights.

    Attributes:
        latents: dimensions of all of z.
    """

    family: ClassVar[str] = "vae"
    statistic_names = ("cross_entropy", "entropy", "divergence", "log_likelihood", "importance_weighted")

    def __init__(
        self,
        data_shape: tuple[int, int, int] = (3, 32, 32),
        latents: int = 64,
        hidden: int = 32,
        likelihood: Likelihood = "logistic",
        layout: Layout = "vector",
        components: int = 3,
        blocks: int = 2,
        importance_samples: int = 1,
        init_seed: int = 0,
    ) -> None:
        super().__init__(tuple(data_shape), (0.0, 255.0))
        _check_settings(self.data_shape, likelihood, layout)
        _check_positive(
            latents=latents,
            hidden=hidden,
            components=components,
            blocks=blocks,
            importance_samples=importance_samples,
        )
        of_head = {"components": components} if likelihood == "mixture" else {}
        self._config = {
            "data_shape": list(data_shape),
            "latents": latents,
            "hidden": hidden,
            "likelihood": likelihood,
            # Only what this model has: the fingerprints of models saved before there were grids and mixtures stay.
            **of_head,
            **({"layout": layout, "blocks": blocks} if layout == "grid" else {}),
            "importance_samples": importance_samples,
            "init_seed": init_seed,
        }
        self.importance_samples = importance_samples
        sizes = [(data_shape[1], data_shape[2])]
        for _ in range(3):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        make_head = partial(HEADS[likelihood], data_channels=data_shape[0], **of_head)
        self.encoder: GridEncoder | VectorEncoder
        self.decoder: GridDecoder | VectorDecoder
        with initial_seed(init_seed):
            if layout == "grid":
                self.latents = latents * math.prod(sizes[1])
                self.encoder = GridEncoder(data_shape, hidden, latents, blocks)
                self.decoder = GridDecoder(sizes, hidden, latents, blocks, make_head)
            else:
                self.latents = latents
                self.encoder = VectorEncoder(data_shape, sizes, hidden, latents)
                self.decoder = VectorDecoder(sizes, hidden, latents, make_head)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the importance-weighted bound of log P(x) in nats, (n,)."""
        log_weights = self.log_weights(x, self.importance_samples, seed=seed, keys=keys)
        return log_weights.logsumexp(1) - math.log(self.importance_samples)

    @property
    def term_names(self) -> tuple[str, ...]:
        """The three parts of the evidence lower bound; none with several latents, whose bound is no sum."""
        return ("log_likelihood", "cross_entropy", "entropy") if self.importance_samples == 1 else ()

    def term_log_prob(self, x: Tensor, index: int, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return log p(x | z), log p(z) or -log q(z | x) at the latent of :meth:`log_prob`, their sum; (n,).

        The last two are, in the mean over latents, minus the cross-entropy of q and the prior, and the entropy of q.
        Neither needs the decoder.

        Args:
            x: images (n, C, H, W).
            index: 0, 1 or 2.
            seed: seed of the latent's noise.
            keys: keys of the original samples.
        """
        keys, x = keys_of(x, keys), self.check_batch(x)
        z, log_prior, log_q = self._latents(*self.encode(x), 1, keys, seed, _LATENT_STREAM)
        if index == 0:
            return self._log_likelihood(x, z, keys, seed)[:, 0]
        return log_prior[:, 0] if index == 1 else -log_q[:, 0]

    def log_weights(self, x: Tensor, count: int, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return log p(x, z_k) - log q(z_k | x) for ``count`` latents z_k ~ q(z | x), shape (n, count)."""
        mean, log_variance = self.encode(x)
        return self.log_weights_at(x, mean, log_variance, count, seed=seed, keys=keys)[0]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z | x) for images x (n, C, H, W), (n, latents) each."""
        mean, log_variance = self.encoder(scaled(self.check_batch(x)))
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
        keys, x = keys_of(x, keys), self.check_batch(x)
        z, log_prior, log_q = self._latents(mean, log_variance, count, keys, seed, stream)
        likelihood = self._log_likelihood(x, z, keys, seed)
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

    def _latents(
        self, mean: Tensor, log_variance: Tensor, count: int, keys: KeyArray, seed: int, stream: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents z ~ q, (n, count, latents), log p(z) and log q(z), (n, count), of q (n, latents) each."""
        noise = normal_noise(keys, (count, self.latents), seed=seed, stream=stream, like=mean)
        z = mean[:, None] + (0.5 * log_variance).exp()[:, None] * noise
        log_q = -0.5 * (noise.square() + log_variance[:, None] + _LOG_2_PI).sum(2)
        log_prior = -0.5 * (z.square() + _LOG_2_PI).sum(2)
        return z, log_prior, log_q

    def _log_likelihood(self, x: Tensor, z: Tensor, keys: KeyArray, seed: int) -> Tensor:
        """Return log p(x | z), (n, count), of images x (n, C, H, W) and latents z (n, count, latents)."""
        if self.decoder.out.dequantises:
            x = x + uniform_noise(keys, self.data_shape, seed=seed, stream=_DEQUANTISATION_STREAM, like=x) - 0.5
        each = x[:, None].expand(-1, z.shape[1], *self.data_shape)
        features = self.decoder(z.flatten(0, 1))
        return self.decoder.out.log_likelihood(features, each.flatten(0, 1)).reshape(each.shape[:2])

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n images, uint8 (n, C, H, W), with the likelihood's own noise."""
        keys, z = self._prior(n, seed)
        return self.decoder.out.drawn(self.decoder(z), keys, seed)

    @torch.no_grad()
    def mean_image(self, n: int, *, seed: int = 0) -> Tensor:
        """Return the locations of n samples without the likelihood's noise, uint8 (n, C, H, W), as papers show them."""
        return nearest_levels(self.decode(self._prior(n, seed)[1]))

    def decode(self, z: Tensor) -> Tensor:
        """Return the likelihood's locations, a mixture's weighted mean, in levels (n, C, H, W) for z (n, latents)."""
        return self.decoder.out.mean(self.decoder(z))

    def _prior(self, n: int, seed: int) -> tuple[KeyArray, Tensor]:
        """Return keys of n samples, their numbers, and a latent (n, latents) of the prior for each."""
        keys = np.arange(n, dtype=np.uint64)
        return keys, normal_noise(keys, (self.latents,), seed=seed, like=next(self.parameters()))


def _check_settings(data_shape: Sequence[int], likelihood: str, layout: str) -> None:
    if len(data_shape) != 3:
        raise SettingError(f"data_shape is {tuple(data_shape)}, expected (channels, height, width)")
    for name, given, known in (
        ("likelihood", likelihood, get_args(Likelihood)),
        ("layout", layout, get_args(Layout)),
    ):
        if given not in known:
            raise SettingError(f"{name} is '{given}', expected one of {', '.join(known)}")


def _check_positive(**numbers: int) -> None:
    if wrong := [f"{name} ({number})" for name, number in numbers.items() if number < 1]:
        raise SettingError(f"expected at least 1, not {', '.join(wrong)}")
