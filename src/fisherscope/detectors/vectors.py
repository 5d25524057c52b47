"""Single samples that are short vectors of numbers: rows, columns that vary, groups."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.densities.base import Array
from fisherscope.detectors.layers import relative_round_off

_LEAST_SPREAD: Final = 1e-9
"""Relative spread that sums of many numbers leave of a constant, float64 ones too."""


def member_vectors(table: FeatureTable, block: str) -> Array:
    """Return the values of a block (N, B, ...) as vectors, one below the other, (N * B, S), float64."""
    values = table.block(block)
    flat: Array = values.reshape(values.shape[0] * values.shape[1], -1).astype(np.float64)
    return flat


def group_means(values: Array, table: FeatureTable) -> Scores:
    """Return the mean over each group's members of values (N * B,), shape (N,)."""
    means: Scores = values.reshape(len(table), -1).mean(1)
    return means


def varying_columns(points: Array, name: str, dtype: str) -> NDArray[np.intp]:
    """Return the columns of points (n, S) whose spread is more than round-off; none is a :class:`DataError`.

    Args:
        points: of the fit samples.
        name: of the detector, for the message.
        dtype: in which they were computed.
    """
    round_off = max(_LEAST_SPREAD, relative_round_off(dtype))
    kept = np.flatnonzero(np.ptp(points, axis=0) > round_off * np.abs(points).max(0))
    if not len(kept):
        raise DataError(f"no statistic varies over the {len(points)} fit samples of {name}; give different samples")
    return kept
