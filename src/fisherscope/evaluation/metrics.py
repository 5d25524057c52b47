"""Metrics of a score that should tell out-of-distribution (OOD) from in-distribution samples.

One convention throughout: OOD is the positive class and a higher score means more novel. Ties count as
scikit-learn counts them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from fisherscope.core.errors import DataError, SettingError

Scores = NDArray[np.float64]

TARGET_TPR = 0.95


def check_scores(scores: ArrayLike, name: str) -> Scores:
    """Return scores as a float64 vector.

    Args:
        scores: one finite number a sample or group, shape (n,), n >= 1.
        name: what they are, for the error.

    Raises:
        DataError: empty, not a vector, or holding NaN or inf.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} scores have shape {array.shape}, expected (n,) with n >= 1: one score a group")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{name} scores hold {array[row]}, first in row {row}; look at that sample's features")
    return array


def _labelled(scores_in: ArrayLike, scores_out: ArrayLike) -> tuple[NDArray[Any], Scores]:
    inside, outside = check_scores(scores_in, "in-distribution"), check_scores(scores_out, "out-of-distribution")
    labels = np.repeat([0, 1], [len(inside), len(outside)])
    return labels, np.concatenate([inside, outside])


def auroc(scores_in: ArrayLike, scores_out: ArrayLike) -> float:
    """Return the area under the ROC curve: P(score_out > score_in) + P(score_out = score_in) / 2.

    Args:
        scores_in: in-distribution scores, shape (n_in,).
        scores_out: OOD scores, shape (n_out,).
    """
    return float(roc_auc_score(*_labelled(scores_in, scores_out)))


def aupr_out(scores_in: ArrayLike, scores_out: ArrayLike) -> float:
    """Return the average precision with OOD as the positive class, high scores first.

    A score that knows nothing has n_out / (n_in + n_out), so the figure depends on the share of OOD samples.
    """
    return float(average_precision_score(*_labelled(scores_in, scores_out)))


def aupr_in(scores_in: ArrayLike, scores_out: ArrayLike) -> float:
    """Return the average precision with in-distribution as the positive class, low scores first."""
    labels, scores = _labelled(scores_in, scores_out)
    return float(average_precision_score(1 - labels, -scores))


def fpr_at_tpr(scores_in: ArrayLike, scores_out: ArrayLike, tpr: float = TARGET_TPR) -> float:
    """Return the share of in-distribution samples flagged when at least ``tpr`` of the OOD ones are.

    The threshold is the strictest, that is highest, one that flags so many.

    OOD is the positive class. Part of the literature takes in-distribution as positive and reports the share
    of OOD samples missed at 95 % acceptance: another number.

    Args:
        scores_in: in-distribution scores, shape (n_in,).
        scores_out: OOD scores, shape (n_out,).
        tpr: share of OOD samples to flag, in (0, 1]; flagged means score >= threshold.
    """
    if not 0 < tpr <= 1:
        raise SettingError(f"tpr is {tpr}, expected a share in (0, 1]")
    false_positive, true_positive = roc_points(scores_in, scores_out)
    return float(false_positive[np.argmax(true_positive >= tpr)])


def roc_points(scores_in: ArrayLike, scores_out: ArrayLike) -> tuple[Scores, Scores]:
    """Return the corners of the ROC curve.

    Returns:
        False-positive rates and true-positive rates, both (k,), rising from (0, 0) to (1, 1); one point for each
        distinct score, so that straight lines between them give the AUROC.
    """
    false_positive, true_positive, _ = roc_curve(*_labelled(scores_in, scores_out), drop_intermediate=False)
    return false_positive, true_positive
