"""The contract of a density over the layers' numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Learnt = Mapping[str, NDArray[Any]]


class LayerDensity(ABC):
    """What is assumed of v = log f_l over the layers, and which deviation from it counts as novel.

    It keeps no state: what ``fit`` returns is what gets saved, and what ``score`` is given back.

    Attributes:
        min_fit: fewest fit groups it works with.
    """

    min_fit: int = 2

    @abstractmethod
    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        """Learn from in-distribution groups.

        Args:
            v: log f_l, (N, L), of layers that vary.
            sizes: n_l, number of parameters of each layer, (L,), where the table says it.

        Returns:
            Named arrays.
        """

    @abstractmethod
    def score(self, v: Array, learnt: Learnt) -> Array:
        """Return the novelty of each group, (N,), higher = more novel, from what ``fit`` returned."""


class SmoothDensity(LayerDensity):
    """A density whose novelty has a gradient."""

    @abstractmethod
    def gradient(self, v: Array, learnt: Learnt) -> Array:
        """Return d score / d v of each group, (N, L), from what ``fit`` returned."""


def standardise(v: Array, learnt: Learnt) -> Array:
    """Return (v - mean) / std."""
    z: Array = (v - learnt["mean"]) / learnt["std"]
    return z


def mean_and_std(v: Array) -> dict[str, Array]:
    """Return ``mean`` and ``std`` of each layer."""
    return {"mean": v.mean(0), "std": v.std(0, ddof=1)}
