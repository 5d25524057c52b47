"""The paper's detector: layer-wise gradient norms, independent normals on the log scale."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores

_LOG_2_PI: Final = math.log(2 * math.pi)
_ROUND_OFF: Final = 100.0


def resolution(norms: NDArray[np.float64], dtype: str) -> float:
    """Return the squared norm below which f_l is round-off: (100 eps)^2 times the median of sum_l f_l.

    A gradient that is zero by symmetry (the bias of attention keys) is computed as round-off, whose logarithm is
    noise; comparing with the size of the model's whole gradient tells it from a small one.
    """
    return _relative_round_off(dtype) ** 2 * float(np.median(norms.sum(1)))


def _relative_round_off(dtype: str) -> float:
    return _ROUND_OFF * float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps)


class LayerwiseGaussian(Detector):
    """score = - sum_l log N(log f_l; m_l, d_l) (Dauncey et al. 2024, section 4.2).

    Layers whose f_l has no variance on the fit set, or is zero by symmetry, are dropped; ``kept_`` holds the column
    numbers of the others. Values of f_l below the arithmetic's resolution count as that resolution, so that a layer
    that a sample does not reach at all (f_l = 0) gives a large but finite score.
    """

    name = "layerwise-gaussian"
    requires = ("grad_norm",)

    kept_: NDArray[np.intp]
    floor_: float
    mean_: NDArray[np.float64]
    std_: NDArray[np.float64]

    def _fit(self, table: FeatureTable) -> None:
        norms = table.block("grad_norm").astype(np.float64)
        self.floor_ = resolution(norms, table.card.dtype)
        log_norms = self._log(norms)
        spread = log_norms.std(0)
        varies = (spread > _relative_round_off(table.card.dtype)) & (np.median(norms, axis=0) > self.floor_)
        if not varies.any():
            raise DataError(
                f"no layer's gradient norm varies over the {len(table)} fit groups; "
                "give different samples, or check that log_prob depends on the parameters"
            )
        self.kept_ = np.flatnonzero(varies)
        self.mean_, self.std_ = log_norms[:, varies].mean(0), log_norms[:, varies].std(0, ddof=1)

    def log_norms(self, table: FeatureTable) -> NDArray[np.float64]:
        """Return log f_l of the layers that are kept, shape (N, len(kept_))."""
        return self._log(table.block("grad_norm").astype(np.float64))[:, self.kept_]

    def _log(self, norms: NDArray[np.float64]) -> NDArray[np.float64]:
        smallest = max(float(self.floor_), float(np.finfo(np.float64).tiny))
        return np.log(np.maximum(norms, smallest))

    def _score(self, table: FeatureTable) -> Scores:
        z = (self.log_norms(table) - self.mean_) / self.std_
        scores: Scores = (0.5 * z**2 + np.log(self.std_) + 0.5 * _LOG_2_PI).sum(1)
        return scores
