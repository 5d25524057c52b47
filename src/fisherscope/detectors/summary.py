"""What sums a sample up in one or two numbers: log p, and how long its code is."""

from __future__ import annotations

from typing import Final

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector
from fisherscope.detectors.densities.components import MOST_MODES, fit_modes
from fisherscope.detectors.layers import Array, relative_round_off

_CODE: Final = "code_length"


class KeptSummary(Detector):
    """A detector that reads log p and, where it requires ``code_length``, the log of that.

    Both are means over the group's members, standardised on the fit set. Samples without a code (floating numbers) are
    summed up by log p alone.

    Attributes:
        centre_: means of log p and log code length on the fit set.
        scale_: their standard deviations.
        coded_: whether code lengths are read: 1 or 0.
        summary_weights_, summary_centres_, summary_precisions_: density of the summary, see :func:`fit_modes`.
    """

    centre_: Array
    scale_: Array
    coded_: int
    summary_weights_: Array
    summary_centres_: Array
    summary_precisions_: Array

    def _keep_summary(self, table: FeatureTable, most_modes: int = MOST_MODES) -> bool:
        """Learn scales and density; return whether any of the numbers varies over the fit groups."""
        self.coded_ = int(_CODE in self.requires and bool(table.block(_CODE).all()))
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
        log_p: Array = table.block("log_p").mean(1, dtype=np.float64)
        if not self.coded_:
            return log_p[:, None]
        lengths = table.block(_CODE).astype(np.float64)
        if not lengths.all():
            row = int(np.argwhere(lengths == 0)[0][0])
            raise DataError(
                f"{self.name} was fitted on whole numbers (8-bit images, bytes of text), but "
                f"{', '.join(table.ids[row])} holds floating numbers or nothing; give samples in the fit set's format"
            )
        return np.column_stack([log_p, np.log(lengths).mean(1)])

    def summary(self, table: FeatureTable) -> Array:
        """Return the standardised numbers, (N, 1 or 2), log p first."""
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
