"""What a model may do beyond the contract; training asks for it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.denoising import Denoiser


@runtime_checkable
class InitialisedFromData(Protocol):
    """A model that sets some of its state from a first batch of data (Glow's actnorm)."""

    def initialise(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> None:
        """Set it; called once before training."""


@runtime_checkable
class OwnTrainingLoss(Protocol):
    """A model that is trained by something else than its log p (diffusion: one random timestep a sample)."""

    def training_loss(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the loss of every sample, shape (n,)."""


@runtime_checkable
class OwnBound(Protocol):
    """A model whose ``log_prob`` may be configured to be no bound of log p (diffusion: terms of the bound)."""

    def bound(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the lower bound of log p in nats, shape (n,)."""


@runtime_checkable
class HasStatistics(Protocol):
    """A model with numbers about a sample beside log p, for densities of statistics (Morningstar et al. 2021).

    Attributes:
        statistic_names: their names.
    """

    statistic_names: tuple[str, ...]

    def statistics(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return them in nats, shape (n, len(statistic_names))."""


@runtime_checkable
class SumOfTerms(Protocol):
    """A model whose log p is a sum of terms that say different things, each with a gradient of its own.

    Those of a diffusion model, its timesteps, cost no more one by one than together; a VAE's likelihood, cross-entropy
    and entropy take the encoder's part three times.

    Attributes:
        term_names: their names; none where they are not the same for every sample.
    """

    term_names: tuple[str, ...]

    def term_log_prob(self, x: Tensor, index: int, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return one of the terms in nats, shape (n,)."""


@runtime_checkable
class HasLatents(Protocol):
    """A normalising flow: a differentiable, invertible map from points of the data's space to latents."""

    def flow_point(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the points that the flow maps, shape (n, ...): samples after dequantisation and scaling."""

    def flow_latents(self, points: Tensor) -> Tensor:
        """Return their latents, shape (n, D), D the numbers in one point."""


@runtime_checkable
class HasDenoiser(Protocol):
    """A diffusion model."""

    @property
    def denoiser(self) -> Denoiser:
        """The noise predictor with its schedule."""


def bound_of(model: GenerativeModel, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
    """Return what bits/dim are computed from: the model's log p or its lower bound, in nats, shape (n,)."""
    if isinstance(model, OwnBound):
        return model.bound(x, seed=seed, keys=keys)
    return model.log_prob(x, seed=seed, keys=keys)
