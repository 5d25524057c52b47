"""Paired comparison of two detectors on the same samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fisherscope.core.errors import DataError
from fisherscope.evaluation.bootstrap import Bootstrap, Interval, bootstrap_metrics
from fisherscope.evaluation.metrics import Scores, auroc


@dataclass(frozen=True)
class Comparison:
    """AUROC of detector a minus AUROC of detector b, on the same samples.

    Attributes:
        auroc_a: AUROC of a.
        auroc_b: AUROC of b.
        difference: a - b with its paired bootstrap interval.
        p_value: two-sided, of the hypothesis that both AUROCs are equal; at least 2 / (replicates + 1).
    """

    auroc_a: float
    auroc_b: float
    difference: Interval
    p_value: float


def compare_auroc(a: tuple[ArrayLike, ArrayLike], b: tuple[ArrayLike, ArrayLike], bootstrap: Bootstrap) -> Comparison:
    """Compare the AUROC of two detectors that scored the same samples in the same order.

    Every resample is drawn once and scored by both, so what is easy or hard about it cancels. The p-value inverts
    the percentile interval (Efron & Tibshirani 1993, chapter 15): twice the smaller share of replicates on a side
    of 0.

    Args:
        a: scores (in-distribution (n_in,), OOD (n_out,)) of the first detector.
        b: scores of the second one.
        bootstrap: how to resample.

    Raises:
        DataError: the detectors scored different numbers of samples.
    """
    sizes = [(np.size(inside), np.size(outside)) for inside, outside in (a, b)]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"a paired comparison needs the same samples, but one detector has {sizes[0]} scores (in, out) and the "
            f"other {sizes[1]}; score both on the same groups"
        )
    differences = bootstrap_metrics(*a, bootstrap)["auroc"] - bootstrap_metrics(*b, bootstrap)["auroc"]
    return from_replicates(auroc(*a), auroc(*b), differences, bootstrap)


def from_replicates(auroc_a: float, auroc_b: float, differences: Scores, bootstrap: Bootstrap) -> Comparison:
    """Return the comparison of two figures, given the replicates of their difference, shape (R,)."""
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return Comparison(
        auroc_a=auroc_a,
        auroc_b=auroc_b,
        difference=Interval(auroc_a - auroc_b, *bootstrap.interval(differences)),
        p_value=min(1.0, 2 * (1 + beyond) / (bootstrap.replicates + 1)),
    )
