"""Ranked lists with a promise: of what is called novel, at most a chosen share is not, on average."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from fisherscope.core.errors import DataError
from fisherscope.core.settings import require_rate
from fisherscope.detectors.base import Scores


def adjusted_p_values(p_values: Scores) -> Scores:
    """Return Benjamini & Hochberg's (1995) adjusted p-values: the smallest rate at which each would be discovered.

    Conformal p-values of one calibration set depend on each other, but positively (PRDS), so the false discovery rate
    is held whatever the scores (Bates et al. 2023, theorem 2): the expected share of in-distribution groups among those
    whose adjusted p-value is at most ``fdr`` is at most ``fdr`` times the share of in-distribution groups in the list.

    Args:
        p_values: in any order, (m,), in (0, 1].

    Returns:
        min over all p_j >= p_i of p_j m / rank_j, in the order given, (m,).

    Raises:
        DataError: empty, or a value outside (0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not len(p) or not ((p > 0) & (p <= 1)).all():
        raise DataError(f"p-values of shape {p.shape} are given, expected a list of numbers above 0 and at most 1")
    adjusted: Scores = false_discovery_control(p, method="bh")
    return adjusted


def require_fdr(value: Any) -> float:
    """Return a false discovery rate as a float; one that is not between 0 and 1 is a :class:`SettingError`."""
    return require_rate("fdr", value, "false discovery rate", 0.1)


def benjamini_hochberg(p_values: Scores, fdr: float) -> NDArray[np.bool_]:
    """Return which groups are discoveries at a false discovery rate of ``fdr``, (m,); see :func:`adjusted_p_values`.

    Raises:
        SettingError: ``fdr`` is not between 0 and 1.
    """
    # products of the same numbers round differently: a p-value at the bound is a discovery
    found: NDArray[np.bool_] = adjusted_p_values(p_values) <= require_fdr(fdr) * (1 + 1e-12)
    return found
