"""How much better a VAE would explain a sample if its posterior were chosen for that sample alone."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from fisherscope.core.keys import KeyArray
from fisherscope.models.noise import keys_of
from fisherscope.models.vae import VAE

STEPS: Final = 100
LEARNING_RATE: Final = 0.2
STEP_DRAWS: Final = 4
DRAWS: Final = 64
_CHUNK: Final = 8
_FIRST_STREAM: Final = 2
"""Streams 0 and 1 are the model's own latents and dequantisation."""


def likelihood_regret(vae: VAE, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
    """Return log p(x) under the best posterior minus log p(x) under the encoder's, in nats, (n,).

    Xiao, Yan & Amit 2020 (arXiv 2003.02977), the cheap variant: mean and log variance of q are optimised, not
    the encoder's weights. Both likelihoods are importance-weighted bounds of the same 64 draws, so the difference may
    be slightly negative.

    Args:
        vae: the model; nothing in it changes.
        x: images (n, C, H, W).
        seed: seed of the draws.
        keys: keys of the original samples.
    """
    keys = keys_of(x, keys)
    with torch.no_grad():
        mean, log_variance = vae.encode(x)
    best = best_posterior(vae, x, mean, log_variance, seed=seed, keys=keys)
    return _bound(vae, x, *best, seed, keys) - _bound(vae, x, mean, log_variance, seed, keys)


def best_posterior(
    vae: VAE, x: Tensor, mean: Tensor, log_variance: Tensor, *, seed: int, keys: KeyArray
) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of q after 100 steps of Adam on the evidence lower bound of each sample.

    Four fresh draws a step, and a learning rate that falls to zero, as the draws' noise would otherwise decide where
    the steps end. Adam works entry by entry: a sample's steps do not depend on its batch.

    Args:
        vae: the model.
        x: images (n, C, H, W).
        mean: where to start, (n, latents).
        log_variance: where to start, (n, latents).
        seed: seed of the draws.
        keys: keys of the original samples.
    """
    mean, log_variance = mean.clone().requires_grad_(True), log_variance.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([mean, log_variance], lr=LEARNING_RATE)
    for step in range(STEPS):
        with torch.enable_grad():
            _, likelihood = vae.log_weights_at(
                x, mean, log_variance, STEP_DRAWS, seed=seed, keys=keys, stream=_FIRST_STREAM + step
            )
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
            loss = (divergence - likelihood.mean(1)).sum()
        mean.grad, log_variance.grad = torch.autograd.grad(loss, [mean, log_variance])
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        optimiser.step()
    return mean.detach(), log_variance.detach()


@torch.no_grad()
def _bound(vae: VAE, x: Tensor, mean: Tensor, log_variance: Tensor, seed: int, keys: KeyArray) -> Tensor:
    """Return the importance-weighted bound of log p(x) up to a constant, from draws that no step has seen."""
    first = _FIRST_STREAM + STEPS
    weights = [
        vae.log_weights_at(x, mean, log_variance, _CHUNK, seed=seed, keys=keys, stream=first + i)[0]
        for i in range(DRAWS // _CHUNK)
    ]
    return torch.cat(weights, dim=1).logsumexp(1)
