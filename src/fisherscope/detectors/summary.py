"""What sums a sample up in a few numbers: log p, and how long its codes are."""

from __future__ import annotations

from itertools import compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector
from fisherscope.detectors.densities.components import MOST_MODES, fit_modes
from fisherscope.detectors.layers import Array, relative_round_off

CODES: Final = ("code_length", "predictive_length")
"""Blocks with the lengths of universal codes; 0 where a sample has none."""


class KeptSummary(Detector):
    """A detector that reads log p and the logs of those of :data:`CODES` that it requires.

    All are means over the group's members, standardised on the fit set. A code that some fit sample lacks (floating
    numbers have none, texts no predictive one) is left out.

    Attributes:
        centre_: means of log p and the log code lengths on the fit set.
        scale_: their standard deviations.
        coded_: which of :data:`CODES` are read, 1 or 0 each.
        summary_weights_, summary_centres_, summary_precisions_: density of the summary, see :func:`fit_modes`.
    """

    centre_: Array
    scale_: Array
    coded_: NDArray[np.intp]
    summary_weights_: Array
    summary_centres_: Array
    summary_precisions_: Array

    def _keep_summary(self, table: FeatureTable, most_modes: int = MOST_MODES) -> bool:
        """Learn scales and density; return whether any of the numbers varies over the fit groups."""
        self.coded_ = np.array([code in self.requires and bool(table.block(code).all()) for code in CODES], np.intp)
        values = self._values(table)
        self.centre_, self.scale_ = values.mean(0), values.std(0, ddof=1)
        # What varies by round-off alone says nothing: in units of its size it stays near 0 for all samples.
        size = np.abs(values).max(0)
        flat = self.scale_ <= relative_round_off(table.card.dtype) * size
        self.scale_[flat] = np.maximum(size[flat], 1.0)
        for key, value in fit_modes(self.summary(table), most_modes).items():
            setattr(self, f"summary_{key}_", value)
        return not flat.all()

    def _values(self, table: FeatureTable) -> Array:
        columns: list[Array] = [table.block("log_p").mean(1, dtype=np.float64)]
        for code in compress(CODES, self.coded_):
            lengths = table.block(code).astype(np.float64)
            if not lengths.all():
                row = int(np.argwhere(lengths == 0)[0][0])
                raise DataError(
                    f"{self.name} was fitted on samples that have a {code} (images of whole numbers; bytes of text and "
                    f"token ids have a code_length too), but {', '.join(table.ids[row])} has none: it holds floating "
                    "numbers, others than the fit set's, or nothing; give samples in the fit set's format"
                )
            columns.append(np.log(lengths).mean(1))
        return np.column_stack(columns)

    def summary(self, table: FeatureTable) -> Array:
        """Return the standardised numbers, (N, 1 to 3), log p first."""
        standardised: Array = (self._values(table) - self.centre_) / self.scale_
        return standardised

    def _summary_modes(self) -> dict[str, Array]:
        return {
            "weights": self.summary_weights_,
            "centres": self.summary_centres_,
            "precisions": self.summary_precisions_,
        }

    def _log_p_slope(self, slope: Array, table: FeatureTable) -> Array:
        """Return d score / d block ``log_p`` for d score / d (column of log p), (N,)."""
        members = table.card.group_size
        return np.repeat(slope[:, None] / (self.scale_[0] * members), members, axis=1)
