"""Split-conformal calibration: p-values and a threshold from held-out in-distribution scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.core.settings import require_rate
from fisherscope.detectors.base import Scores


def require_fpr(value: Any, name: str = "fpr") -> float:
    """Return a false-alarm rate as a float; one that is not between 0 and 1 is a :class:`SettingError`."""
    return require_rate(name, value, "false-alarm rate", 0.01)


def groups_needed(fpr: float) -> int:
    """Return ceil(1/fpr) - 1, the fewest calibration groups with which a false-alarm rate of ``fpr`` can be held."""
    return math.ceil(round(1 / require_fpr(fpr), 9)) - 1


@dataclass(frozen=True)
class ConformalCalibration:
    """Scores of in-distribution groups that the detector was not fitted on (Vovk et al. 2005; Bates et al. 2023).

    Averaged over calibration sets, at most a share ``a`` of in-distribution groups has p <= a.

    Attributes:
        scores: calibration scores in rising order, shape (n,).
    """

    scores: Scores

    @classmethod
    def from_scores(cls, scores: Scores) -> ConformalCalibration:
        """Return the calibration for scores in any order; NaN and inf are a :class:`DataError`."""
        values: Scores = np.sort(np.asarray(scores, dtype=np.float64))
        if not len(values) or not np.isfinite(values).all():
            raise DataError(f"calibration needs finite scores, given {len(values)} with NaN, inf or none at all")
        return cls(values)

    def p_value(self, scores: Scores) -> Scores:
        """Return p = (1 + #{calibration scores >= score}) / (n + 1) for scores (m,)."""
        at_least = len(self.scores) - np.searchsorted(self.scores, scores, side="left")
        p: Scores = np.asarray(1.0 + at_least, dtype=np.float64) / (len(self.scores) + 1.0)
        return p

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
        return float(self.scores[len(self.scores) - 1 - flagged])
