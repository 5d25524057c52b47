"""The curator's list: the most novel samples of a set, with a bound on how many of those called novel are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError, ModelError
from fisherscope.core.settings import require_whole
from fisherscope.core.table import FeatureTable
from fisherscope.detectors import (
    LayerProfile,
    adjusted_p_values,
    benjamini_hochberg,
    is_differentiable,
)
from fisherscope.detectors.base import Scores
from fisherscope.detectors.false_discovery import require_fdr
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.explanation import Explanation, explain_groups, layer_profile, require_explainable
from fisherscope.pipeline.extraction import ReportProgress
from fisherscope.pipeline.guard import Guard
from fisherscope.pipeline.saliency import ExplainSettings


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
        n_known: number of groups in the set whose p-values promise nothing (:attr:`Verdict.known`).
        clusters: number of clusters that their samples come from, of which nothing can be promised; None where they
            are independent.
        explanation: of the groups in the list, or None where there is none; ``notes`` say why.
        layers: what each layer contributes, or None.
        left_out: names of the samples that fill no last group and were not judged.
        notes: sentences that a reader of the list should know.
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
    n_known: int
    clusters: int | None
    explanation: Explanation | None
    layers: LayerProfile | None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
    report: ReportProgress | None = None,
    report_explanation: ReportProgress | None = None,
) -> Ranking:
    """Return the most novel groups of a set, with Benjamini-Hochberg's bound on the false discoveries among them.

    Args:
        guard: fitted and calibrated on samples that are not in the set.
        x: the set: samples (n, ...).
        top: length of the list.
        fdr: false discovery rate, see :func:`fisherscope.detectors.adjusted_p_values`.
        settings: of the heat maps, see :class:`ExplainSettings`. None or the defaults: where model or samples allow no
            map, the list goes without, and a note says why; with other settings that is an error.
        reference: in-distribution samples that layers and maps compare with, see :func:`explain_groups`. The layers
            are compared whether the detector has a gradient or not.
        report: called with (samples done, samples in all).
        report_explanation: called with (gradients done, gradients in all).

    Raises:
        SettingError: ``top`` is below 1, ``fdr`` not between 0 and 1, or the settings ask for a map that this guard or
            reference does not allow.
        DataError: x is a feature table, or x or the reference cannot be used.
        ModelError: log p allows no map of the kind that the settings ask for.
    """
    top, fdr = require_ranking_settings(top, fdr)
    if isinstance(x, FeatureTable):
        raise DataError("a feature table holds no samples to show; give the samples themselves")
    if settings not in (None, ExplainSettings()):
        require_explainable(guard, settings, reference)
    batches = guard.batches(x)
    table = guard.extract_checked(batches, report)
    verdict = guard.judge(table)
    discoveries = benjamini_hochberg(verdict.p_value, fdr)
    order = np.argsort(-verdict.score, kind="stable")[:top]
    size = guard.card.group_size
    chosen = batches.select((order[:, None] * size + np.arange(size)).ravel())
    listed = table.select(order)
    explanation, notes = _explained(guard, chosen, listed, settings, reference, report_explanation)
    layers = explanation.layers if explanation else layer_profile(guard, listed, chosen, reference)
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
        n_known=int(verdict.known.sum()),
        clusters=None if guard.clusters is None else len(guard.clusters),
        explanation=explanation,
        layers=layers,
        left_out=batches.left_out(size),
        notes=notes,
    )


def _explained(
    guard: Guard,
    chosen: Batches,
    table: FeatureTable,
    settings: ExplainSettings | None,
    reference: Any,
    report: ReportProgress | None,
) -> tuple[Explanation | None, tuple[str, ...]]:
    """Return the explanation of the listed groups; or None, and why there is none."""
    if not is_differentiable(guard.detector) and (settings is None or settings.method != "leverage"):
        return None, ("This detector has no gradient: there are no heat maps.",)
    try:
        return explain_groups(guard, chosen, settings, table=table, reference=reference, report=report), ()
    except (ModelError, DataError) as cause:
        # Whoever asked for a kind of map wants that one; else the list is what was asked for. What is wrong with the
        # reference comes up again with the layers.
        if settings not in (None, ExplainSettings()):
            raise
        return None, (f"There are no heat maps: {cause}.",)
