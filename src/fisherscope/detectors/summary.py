"""What sums a sample up in a few numbers: log p, and how long its codes are."""

from __future__ import annotations

from itertools import compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.densities.components import (
    MOST_MODES,
    SMALLEST_VARIANCE,
    fit_modes,
    modes_novelty,
    modes_slope,
)
from fisherscope.detectors.layers import Array, relative_round_off

CODES: Final = ("code_length", "predictive_length")
"""Blocks with the lengths of universal codes; 0 where a sample has none."""


class KeptSummary(Detector):
    """A detector that reads log p and the logs of those of :data:`CODES` that it requires.

    All are means over the group's members, standardised on the fit set. A code that some fit sample lacks (floating
    numbers have none, texts no predictive one) is left out.

    The summary a = (log p, log c, log d) is by itself worth -log r(a) + s(a). r is a mixture of normals; s, the
    shortfall of log p, says by how many standard deviations of the fit set log p is below what least squares on log c
    and log d let expect, and is 0 where there is no code to expect it from. A density looks both ways, yet to know a
    sample badly is to need more nats for it than its codes say. s is input complexity (Serra et al. 2020) with a
    fitted rate of exchange between the model's nats and the codes'.

    Attributes:
        centre_: means of log p and the log code lengths on the fit set.
        scale_: their standard deviations.
        coded_: which of :data:`CODES` are read, 1 or 0 each.
        summary_weights_, summary_centres_, summary_precisions_: density of the summary, see :func:`fit_modes`.
    shortfall_: weights by which the standardised numbers add up to s, (1 to 3,).
    """

    centre_: Array
    scale_: Array
    coded_: NDArray[np.intp]
    summary_weights_: Array
    summary_centres_: Array
    summary_precisions_: Array
    shortfall_: Array

    def _keep_summary(self, table: FeatureTable, most_modes: int = MOST_MODES, *, shortfall: bool = True) -> bool:
        """Learn scales, density and shortfall, if wanted; return whether any number varies over the fit groups."""
        self.coded_ = np.array([code in self.requires and bool(table.block(code).all()) for code in CODES], np.intp)
        values = self._values(table)
        self.centre_, self.scale_ = values.mean(0), values.std(0, ddof=1)
        # What varies by round-off alone says nothing: in units of its size it stays near 0 for all samples.
        size = np.abs(values).max(0)
        flat = self.scale_ <= relative_round_off(table.card.dtype) * size
        self.scale_[flat] = np.maximum(size[flat], 1.0)
        summary = self.summary(table)
        for key, value in fit_modes(summary, most_modes).items():
            setattr(self, f"summary_{key}_", value)
        self.shortfall_ = _shortfall_weights(summary, ~flat) if shortfall else np.zeros(len(flat))
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

    def _summary_novelty(self, summary: Array) -> Scores:
        """Return -log r(a) + s(a) of standardised numbers, (N,)."""
        # no product of matrices, which rounds differently for other numbers of rows
        novelty: Scores = modes_novelty(summary, self._summary_modes()) + (summary * self.shortfall_).sum(1)
        return novelty

    def _summary_slope(self, summary: Array) -> Array:
        """Return the derivative of :meth:`_summary_novelty` with respect to the standardised log p, (N,)."""
        slope: Array = modes_slope(summary, self._summary_modes())[:, 0] + self.shortfall_[0]
        return slope

    def _log_p_slope(self, slope: Array, table: FeatureTable) -> Array:
        """Return d score / d block ``log_p`` for d score / d (column of log p), (N,)."""
        members = table.card.group_size
        return np.repeat(slope[:, None] / (self.scale_[0] * members), members, axis=1)


def _shortfall_weights(summary: Array, varies: NDArray[np.bool_]) -> Array:
    """Return the weights of s by least squares over standardised numbers (N, 1 to 3); zeros without a code."""
    weights = np.zeros(len(varies))
    if len(weights) > 1:
        codes = np.where(varies, summary, 0.0)[:, 1:]
        rates = np.linalg.lstsq(codes, summary[:, 0])[0]
        variance = np.square(summary[:, 0] - codes @ rates).sum() / (len(summary) - len(weights))
        weights[:] = np.array([-1.0, *rates]) / np.sqrt(variance + SMALLEST_VARIANCE)
    return weights
