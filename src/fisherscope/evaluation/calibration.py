"""Checks of calibrated p-values on in-distribution test samples (METHOD.md, "Calibrated").

A split-conformal p-value of a score s is p = (1 + #{calibration >= s}) / (n + 1). Over calibration sets the false-alarm
rate at level a is at most a; for one calibration set of n and a test set of m the number of false alarms is
beta-binomial (Vovk 2012), wider than binomial because the same n scores judge all m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import betabinom, ks_2samp

from fisherscope.core.errors import DataError, SettingError
from fisherscope.evaluation.metrics import check_scores


@dataclass(frozen=True)
class CalibrationCheck:
    """How a calibrated detector behaves on in-distribution samples that it has not seen.

    Attributes:
        level: wanted false-alarm rate.
        rate: share of in-distribution test groups with p-value <= level.
        low: lower end of the beta-binomial interval of that share.
        high: upper end.
        n_calibration: number of calibration groups.
        ks_p: p-value of the two-sample Kolmogorov-Smirnov test of calibration against test scores.
    """

    level: float
    rate: float
    low: float
    high: float
    n_calibration: int
    ks_p: float


def allowed_rank(n_calibration: int, level: float) -> int:
    """Return k: a sample is flagged when fewer than k of the calibration scores reach its score.

    Raises:
        SettingError: the level is not in (0, 1).
        DataError: too few calibration groups for any p-value to reach the level.
    """
    if not 0 < level < 1:
        raise SettingError(f"the false-positive rate is {level}, expected a number between 0 and 1")
    # The margin undoes rounding of level * (n + 1), as in 0.29 * 100 = 28.999...
    rank = math.floor(level * (n_calibration + 1) + 1e-9)
    if rank < 1:
        needed = math.ceil(1 / level - 1e-9) - 1
        raise DataError(
            f"a false-positive rate of {level:g} needs at least {needed} calibration groups, found {n_calibration}; "
            "give more samples, a smaller group size or a higher rate"
        )
    return rank


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
    """
    rank = allowed_rank(n_cal, level)
    tail = (1 - coverage) / 2
    law = betabinom(n_test, rank, n_cal + 1 - rank)
    return int(law.ppf(tail)), int(law.ppf(1 - tail))


def check_calibration(
    scores_calibration: ArrayLike, scores_test: ArrayLike, level: float, coverage: float = 0.95
) -> CalibrationCheck:
    """Count false alarms on in-distribution test scores and test whether both parts follow one law.

    Args:
        scores_calibration: shape (n,).
        scores_test: in-distribution too, shape (m,).
        level: wanted false-positive rate.
        coverage: of the beta-binomial interval.
    """
    calibration = np.sort(check_scores(scores_calibration, "calibration"))
    test = check_scores(scores_test, "in-distribution")
    n, m = len(calibration), len(test)
    low, high = false_alarm_interval(n, m, level, coverage)
    reached_by = n - np.searchsorted(calibration, test, side="left")
    return CalibrationCheck(
        level=level,
        rate=float((reached_by < allowed_rank(n, level)).mean()),
        low=low / m,
        high=high / m,
        n_calibration=n,
        # The exact law gives up with a warning at some sizes; the asymptotic one does not.
        ks_p=float(ks_2samp(calibration, test, method="asymp").pvalue),
    )
