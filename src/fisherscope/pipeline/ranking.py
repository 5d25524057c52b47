"""The curator's list: the most novel samples of a set, with a bound on how many of those called novel are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.settings import require_whole
from fisherscope.core.table import FeatureTable
from fisherscope.detectors import (
    LayerProfile,
    adjusted_p_values,
    benjamini_hochberg,
    is_differentiable,
    learnt_profile,
)
from fisherscope.detectors.base import Scores
from fisherscope.detectors.false_discovery import require_fdr
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.explanation import Explanation, explain_groups
from fisherscope.pipeline.guard import Guard
from fisherscope.pipeline.saliency import ExplainSettings, Report


@dataclass(frozen=True)
class Ranking:
    """The most novel groups of a set, the most novel first. K groups of B samples.

    Attributes:
        name: of the set.
        ids: names of each group's samples.
        samples: the samples themselves, in the order of ``ids``.
        score: higher = more novel, (K,).
        p_value: conformal p-value, (K,).
        adjusted: Benjamini-Hochberg's adjusted p-value among all groups of the set, (K,).
        discovery: whether the group is called novel at a false discovery rate of ``fdr``, (K,).
        fdr: that rate.
        n_groups: number of groups in the set.
        n_discoveries: number of discoveries in the set, those included that the list is too short for.
        n_calibration: number of calibration groups behind the p-values.
        explanation: of the groups in the list, or None where the detector has no gradient.
        layers: what each layer contributes, or None.
        left_out: names of the samples that fill no last group and were not judged.
    """

    name: str
    ids: tuple[tuple[str, ...], ...]
    samples: Batches
    score: Scores
    p_value: Scores
    adjusted: Scores
    discovery: NDArray[np.bool_]
    fdr: float
    n_groups: int
    n_discoveries: int
    n_calibration: int
    explanation: Explanation | None
    layers: LayerProfile | None
    left_out: tuple[str, ...] = ()

    def least_discoverable(self) -> int:
        """Return how many groups must have the smallest possible p-value, 1/(n + 1), before any is a discovery."""
        return math.ceil(round(self.n_groups / (self.fdr * (self.n_calibration + 1)), 9))


def require_ranking_settings(top: Any, fdr: Any) -> tuple[int, float]:
    """Return ``top`` and ``fdr`` of :func:`rank_groups` as Python numbers, checked; ask before the long work."""
    return require_whole("top", top, 1), require_fdr(fdr)


def rank_groups(
    guard: Guard,
    x: Any,
    *,
    top: int = 100,
    fdr: float = 0.1,
    settings: ExplainSettings | None = None,
    reference: Any = None,
    report: Report | None = None,
    report_explanation: Report | None = None,
) -> Ranking:
    """Return the most novel groups of a set, with Benjamini-Hochberg's bound on the false discoveries among them.

    Args:
        guard: fitted and calibrated on samples that are not in the set.
        x: the set: samples (n, ...).
        top: length of the list.
        fdr: false discovery rate, see :func:`fisherscope.detectors.adjusted_p_values`.
        settings: of the heat maps, see :class:`ExplainSettings`.
        reference: in-distribution samples that layers and maps compare with, see :func:`explain_groups`.
        report: called with (samples done, samples in all).
        report_explanation: called with (gradients done, gradients in all).

    Raises:
        SettingError: ``top`` is below 1, or ``fdr`` not between 0 and 1.
        DataError: x is a feature table, or cannot be used.
    """
    top, fdr = require_ranking_settings(top, fdr)
    if isinstance(x, FeatureTable):
        raise DataError("a feature table holds no samples to show; give the samples themselves")
    batches = guard.batches(x)
    table = guard.extract(batches, report)
    verdict = guard.judge(table)
    discoveries = benjamini_hochberg(verdict.p_value, fdr)
    order = np.argsort(-verdict.score, kind="stable")[:top]
    size = guard.card.group_size
    chosen = batches.select((order[:, None] * size + np.arange(size)).ravel())
    explanation = None
    if is_differentiable(guard.detector) or (settings is not None and settings.method == "leverage"):
        explanation = explain_groups(guard, chosen, settings, reference=reference, report=report_explanation)
    return Ranking(
        name=batches.name,
        ids=tuple(verdict.ids[i] for i in order),
        samples=chosen,
        score=verdict.score[order],
        p_value=verdict.p_value[order],
        adjusted=adjusted_p_values(verdict.p_value)[order],
        discovery=discoveries[order],
        fdr=fdr,
        n_groups=len(table),
        n_discoveries=int(discoveries.sum()),
        n_calibration=len(guard.calibration.scores),
        explanation=explanation,
        layers=explanation.layers if explanation else learnt_profile(guard.detector, table.select(order)),
        left_out=batches.left_out(size),
    )
