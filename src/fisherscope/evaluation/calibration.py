"""Checks of calibrated p-values on in-distribution test samples (split-conformal, Vovk et al. 2005).

A split-conformal p-value of a score s is p = (1 + #{calibration >= s}) / (n + 1). Over calibration sets the false-alarm
rate at level a is at most a; for one calibration set of n and a test set of m the number of false alarms is
beta-binomial (Vovk 2012), wider than binomial because the same n scores judge all m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy.stats import betabinom, ks_2samp

from fisherscope.core.errors import DataError
from fisherscope.detectors import ConformalCalibration
from fisherscope.detectors.conformal import alarms, groups_needed
from fisherscope.evaluation.metrics import check_scores


@dataclass(frozen=True)
class CalibrationCheck:
    """How a calibrated detector behaves on in-distribution samples that it has not seen.

    Attributes:
        level: wanted false-alarm rate.
        rate: share of in-distribution test groups with p-value <= level.
        low: lower end of the beta-binomial interval of that share, None where groups depend on each other.
        high: upper end, likewise.
        n_calibration: number of calibration groups.
        ks_p: p-value of the two-sample Kolmogorov-Smirnov test of calibration against test scores, likewise.
    """

    level: float
    rate: float
    low: float | None
    high: float | None
    n_calibration: int
    ks_p: float | None


def false_alarm_interval(n_cal: int, n_test: int, level: float, coverage: float = 0.95) -> tuple[int, int]:
    """Return the equal-tailed interval of the number of false alarms among ``n_test`` in-distribution groups.

    With k = floor(level (n + 1)) and continuous scores the false-alarm rate of one calibration set is
    Beta(k, n + 1 - k), so the count is beta-binomial; ties only lower it.

    Args:
        n_cal: number n of calibration groups.
        n_test: number m of test groups.
        level: wanted false-positive rate.
        coverage: probability that the count lies in the interval, at least.

    Returns:
        Lowest and highest count, both included.

    Raises:
        DataError: too few calibration groups for any p-value to reach the level.
    """
    needed = groups_needed(level)
    if n_cal < needed:
        raise DataError(
            f"false alarms at a rate of {level:g} need at least {needed} calibration groups to be counted, found "
            f"{n_cal}; give more in-distribution samples, a smaller group size or a higher rate"
        )
    # The margin undoes rounding, as in 0.29 * 100 = 28.999...
    rank = math.floor(level * (n_cal + 1) + 1e-9)
    tail = (1 - coverage) / 2
    law = betabinom(n_test, rank, n_cal + 1 - rank)
    return int(law.ppf(tail)), int(law.ppf(1 - tail))


def check_calibration(
    scores_calibration: ArrayLike,
    scores_test: ArrayLike,
    level: float,
    coverage: float = 0.95,
    *,
    independent: bool = True,
) -> CalibrationCheck:
    """Count false alarms on in-distribution test scores and test whether both parts follow one law.

    Args:
        scores_calibration: shape (n,).
        scores_test: in-distribution too, shape (m,).
        level: wanted false-positive rate.
        coverage: of the beta-binomial interval.
        independent: whether the groups are independent of each other, as both laws suppose; frames of one film are not.
    """
    calibration = ConformalCalibration.from_scores(check_scores(scores_calibration, "calibration"))
    test = check_scores(scores_test, "in-distribution")
    low, high = false_alarm_interval(len(calibration.scores), len(test), level, coverage)
    return CalibrationCheck(
        level=level,
        rate=float(alarms(calibration.p_value(test), level).mean()),
        low=low / len(test) if independent else None,
        high=high / len(test) if independent else None,
        n_calibration=len(calibration.scores),
        # The exact law gives up with a warning at some sizes; the asymptotic one does not.
        ks_p=float(ks_2samp(calibration.scores, test, method="asymp").pvalue) if independent else None,
    )
