"""Sums over the layers, no density: what a better metric gains is not lost in logarithms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fisherscope.detectors.densities.base import Array, Learnt, SmoothDensity


class NormalisedSum(SmoothDensity):
    """score = sum_l f_l / mean f_l: every layer has one vote; one-sided."""

    def fit(self, v: Array, sizes: NDArray[np.intp] | None) -> Learnt:
        return {"scale": np.exp(v).mean(0)}

    def score(self, v: Array, learnt: Learnt) -> Array:
        scores: Array = (np.exp(v) / learnt["scale"]).sum(1)
        return scores

    def gradient(self, v: Array, learnt: Learnt) -> Array:
        slope: Array = np.exp(v) / learnt["scale"]
        return slope
