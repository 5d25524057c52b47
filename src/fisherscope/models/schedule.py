"""Noise schedules of diffusion models and what follows from them in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import SettingError

ScheduleName = Literal["cosine", "linear"]
Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A forward process x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t = 0 (no noise) to T (all noise).

    Attributes:
        abar: cumulative signal share, shape (T + 1,), abar[0] = 1, falling.
    """

    abar: Vector

    @property
    def steps(self) -> int:
        """T."""
        return len(self.abar) - 1

    @cached_property
    def beta(self) -> Vector:
        """Variance added by step t, shape (T + 1,); beta[0] = 0."""
        return np.concatenate([[0.0], 1 - self.abar[1:] / self.abar[:-1]])

    @cached_property
    def bound_weight(self) -> Vector:
        """Weight of ||eps - eps_hat||**2 / 2 in term t of the bound, t = 2..T (Ho et al. 2020, eq. 12).

        With the posterior variance beta~_t as the model's: beta_t / (alpha_t (1 - abar_{t-1})). Shape (T + 1,); the
        first two entries are 0, as term 1 is the likelihood of the 8-bit image itself.
        """
        weight = np.zeros_like(self.abar)
        weight[2:] = self.beta[2:] / ((1 - self.beta[2:]) * (1 - self.abar[1:-1]))
        return weight

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        """Return (a, b, std) of q(x_s | x_t, x_0) = N(a x_0 + b x_t, std**2), s < t (Ho et al. 2020, eq. 7)."""
        alpha = self.abar[t] / self.abar[s]
        noise = 1 - self.abar[t]
        a = math.sqrt(self.abar[s]) * (1 - alpha) / noise
        b = math.sqrt(alpha) * (1 - self.abar[s]) / noise
        return a, b, math.sqrt((1 - self.abar[s]) / noise * (1 - alpha))


def make_schedule(name: ScheduleName, steps: int) -> Schedule:
    """Return a schedule of T = ``steps`` steps.

    Args:
        name: ``cosine`` (Nichol & Dhariwal 2021, eq. 17) or ``linear`` (Ho et al. 2020, section 4; scaled by 1000/T).
        steps: T, at least 2.
    """
    if steps < 2:
        raise SettingError(f"a diffusion of {steps} steps was asked for, expected at least 2")
    if name == "cosine":
        angle = (np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2
        level = np.cos(angle) ** 2 / math.cos(angle[0]) ** 2
        beta = np.minimum(1 - level[1:] / level[:-1], 0.999)
    elif name == "linear":
        beta = np.minimum(np.linspace(1e-4, 0.02, steps) * (1000 / steps), 0.999)
    else:
        raise SettingError(f"schedule is '{name}', expected 'cosine' or 'linear'")
    return Schedule(np.concatenate([[1.0], np.cumprod(1 - beta)]))
