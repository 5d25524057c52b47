"""What all diffusion models have in common: an objective of a denoiser for log p, and samples drawn with it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

from torch import Tensor

from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.denoising import Denoiser, Objective
from fisherscope.models.noise import keys_of


class DenoisingModel(GenerativeModel):
    """A diffusion model; a subclass has its ``denoiser`` and its ``objective``.

    Attributes:
        objective: what ``log_prob`` is minus of.
    """

    objective: Objective

    @property
    @abstractmethod
    def denoiser(self) -> Denoiser:
        """The noise predictor with its schedule: single terms of the bound and their noise."""

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return minus the objective, (n,); with ``weight='bound'`` and all timesteps the variational bound."""
        return self.denoiser.log_prob(self.check_batch(x), keys_of(x, keys), seed, self.objective)

    @property
    def term_names(self) -> tuple[str, ...]:
        """``term_t`` for every timestep t of the objective; none where its timesteps are random."""
        return tuple(f"term_{t}" for t in self._timesteps())

    def term_log_prob(self, x: Tensor, index: int, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return minus the objective's term at one of its timesteps, (n,); all of them add up to :meth:`log_prob`.

        Args:
            x: images (n, C, H, W).
            index: place of the timestep in the objective.
            seed: seed of the noise.
            keys: keys of the original samples.
        """
        objective = replace(self.objective, timesteps=(self._timesteps()[index],))
        return self.denoiser.log_prob(self.check_batch(x), keys_of(x, keys), seed, objective)

    def _timesteps(self) -> tuple[int, ...]:
        return self.objective.timesteps or ()

    @property
    def statistic_names(self) -> tuple[str, ...]:
        """:attr:`term_names`."""
        return self.term_names

    def statistics(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the objective's term at each of its timesteps, (n, timesteps)."""
        return self.denoiser.fixed_terms(self.check_batch(x), keys_of(x, keys), seed, self.objective)

    def bound(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return an unbiased estimate of the variational bound of log P(x) in nats, (n,), from 4 random timesteps."""
        return self.bound_with_error(x, seed=seed, keys=keys, draws=4)[0]

    def bound_with_error(
        self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None, draws: int = 16
    ) -> tuple[Tensor, Tensor]:
        """Return the estimate of the bound and its own standard error over the draws of timestep and noise, (n,) each.

        Args:
            x: images (n, C, H, W).
            seed: seed of the noise.
            keys: keys of the original samples.
            draws: random timesteps a sample, at least 2.
        """
        return self.denoiser.bound_with_error(self.check_batch(x), keys_of(x, keys), seed, draws)

    def training_loss(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return ||eps - eps_hat||**2 / 2 at one uniformly random timestep a sample, (n,) (L_simple, eq. 14)."""
        return self.denoiser.training_loss(self.check_batch(x), keys_of(x, keys), seed)

    def sample(self, n: int, *, seed: int = 0, steps: int = 100) -> Tensor:
        """Return n images, uint8 (n, C, H, W), by ancestral sampling over ``steps`` evenly spaced timesteps."""
        return self.denoiser.sample(n, seed=seed, steps=steps, like=next(self.parameters()))
