"""Split-conformal calibration: p-values and a threshold from held-out in-distribution scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.settings import require_rate
from fisherscope.detectors.base import Scores

_FARTHEST: Final = 1e300
"""Bound of the excess over all calibration scores: p over it is above 0, and 1 over that is finite."""


def require_fpr(value: Any, name: str = "fpr") -> float:
    """Return a false-alarm rate as a float; one that is not between 0 and 1 is a :class:`SettingError`."""
    return require_rate(name, value, "false-alarm rate", 0.01)


def groups_needed(fpr: float) -> int:
    """Return ceil(1/fpr) - 1, the fewest calibration groups with which a false-alarm rate of ``fpr`` can be held."""
    return math.ceil(round(1 / require_fpr(fpr), 9)) - 1


def alarms(p_values: Scores, fpr: float) -> NDArray[np.bool_]:
    """Return which p-values are at most ``fpr``, by a margin that undoes rounding, as in 1 - 0.9."""
    return p_values <= fpr + 1e-12


def cluster_bound(sizes: Sequence[int], fpr: float) -> float:
    """Return the largest share of a new cluster's samples that raise a false alarm, in the mean over new clusters.

    Every cluster counts alike, whatever its size: of all samples together more may alarm where large clusters are odd.

    (1 + K) / (J + 1) for J clusters of which at most K lie above a threshold that a share ``fpr`` of the samples is
    above: as many of the smallest as have that share. Were a new cluster's samples calibrating too, each of the J + 1
    would be equally likely to be the new one; of those K and one more may alarm. With clusters of equal size that is
    fpr + (1 - fpr) / (J + 1) (Lee, Barber & Willett 2023, arXiv 2306.06342). A new cluster's size is taken to be drawn
    as theirs were.

    Args:
        sizes: how many calibration samples each cluster has, (J,).
        fpr: share of the calibration samples.
    """
    rising = np.sort(np.asarray(sizes, np.float64))
    budget, filled = fpr * rising.sum(), np.cumsum(rising)
    above = float(np.interp(budget, np.concatenate([[0.0], filled]), np.arange(len(rising) + 1)))
    return (1 + above) / (len(rising) + 1)


@dataclass(frozen=True)
class ConformalCalibration:
    """Scores of in-distribution groups that the detector was not fitted on (Vovk et al. 2005; Bates et al. 2023).

    Averaged over calibration sets, at most a share ``a`` of in-distribution groups has p <= a.

    Attributes:
        scores: calibration scores in rising order, shape (n,).
    """

    scores: Scores

    def __post_init__(self) -> None:
        """Check the order, on which every p-value rests."""
        if not (np.diff(self.scores) >= 0).all():
            raise DataError("calibration scores are not in rising order; use ConformalCalibration.from_scores")

    @classmethod
    def from_scores(cls, scores: Scores) -> ConformalCalibration:
        """Return the calibration for scores in any order; NaN and inf are a :class:`DataError`."""
        values: Scores = np.sort(np.asarray(scores, dtype=np.float64))
        if not len(values) or not np.isfinite(values).all():
            raise DataError(f"calibration needs finite scores, given {len(values)} with NaN, inf or none at all")
        return cls(values)

    @cached_property
    def resolution(self) -> float:
        """Difference below which two scores count as equal: it is round-off, or a ten-thousandth of their spread.

        In a batch and by itself a sample's score may differ by round-off. Were ties broken by that, samples of discrete
        kinds, of which many share a score, would raise many times the false alarms that are promised.
        """
        low, middle, high = np.quantile(self.scores, [0.25, 0.5, 0.75])
        spread = high - low
        if not spread and (apart := np.abs(self.scores[self.scores != middle] - middle)).size:
            spread = np.median(apart)  # of those that do not tie; a deviation would go by the farthest
        return float(max(1e-4 * spread, 16 * np.finfo(np.float32).eps * abs(middle)))

    def p_value(self, scores: Scores) -> Scores:
        """Return p = (1 + #{calibration scores >= score}) / (n + 1) for scores (m,); NaN is a :class:`DataError`.

        What is less than the score by no more than :attr:`resolution` counts as equal, by which p can only grow.
        """
        if np.isnan(scores).any():
            raise DataError("scores hold NaN, which has no p-value; look at the samples that they are of")
        at_least = len(self.scores) - np.searchsorted(self.scores, scores - self.resolution, side="left")
        p: Scores = np.asarray(1.0 + at_least, dtype=np.float64) / (len(self.scores) + 1.0)
        return p

    def continued_p_value(self, scores: Scores, *, middle: bool = False) -> Scores:
        """Return p of scores (m,), which beyond all calibration scores goes on to fall: a statistic to calculate with.

        :meth:`p_value` is the same for all scores beyond the largest calibration score r_n; here it is divided by
        1 + (score - r_n) / (r_n - median), so that none of them tie. In units of 1 where r_n is the median. It is no
        longer a p-value there.

        Args:
            scores: (m,).
            middle: half a step 1 / (n + 1) less before that division, so that it is never 1.
        """
        largest = self.scores[-1]
        width = (largest - self.scores[len(self.scores) // 2]) or 1.0
        with np.errstate(over="ignore"):
            excess = np.clip((scores - largest) / width, 0.0, _FARTHEST)
        half_step = 0.5 / (len(self.scores) + 1.0) if middle else 0.0
        continued: Scores = (self.p_value(scores) - half_step) / (1.0 + excess)
        return continued

    def require_groups(self, fpr: float) -> None:
        """Raise :class:`DataError` naming the number when there are too few calibration groups for ``fpr``."""
        needed = groups_needed(fpr)
        if len(self.scores) < needed:
            raise DataError(
                f"{len(self.scores)} calibration groups cannot promise a false-alarm rate of {fpr:g}: "
                f"at least {needed} are needed; give more in-distribution samples or a larger fpr"
            )

    def threshold(self, fpr: float) -> float:
        """Return the score above which p <= fpr; a group is called novel when its score is GREATER than it."""
        self.require_groups(fpr)
        flagged = math.floor(fpr * (len(self.scores) + 1) + 1e-9) - 1
        return float(self.scores[len(self.scores) - 1 - flagged]) + self.resolution
