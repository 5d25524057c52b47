"""Taking further good samples into a guard."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.keys import KeyArray, among
from fisherscope.core.table import FeatureTable, require_columns
from fisherscope.detectors import ConformalCalibration, require_updatable
from fisherscope.detectors.conformal import groups_needed
from fisherscope.pipeline.companions import require_held_out
from fisherscope.pipeline.extraction import ReportProgress, extract_table, update_metrics_on
from fisherscope.pipeline.fitting import calibration_blocks
from fisherscope.pipeline.halves import sample_halves, table_halves, warn_of_few_clusters

if TYPE_CHECKING:
    from fisherscope.pipeline.guard import Guard


def update_guard(
    guard: Guard,
    good: Any,
    *,
    allow_training_samples: bool = False,
    report: ReportProgress | None = None,
) -> Guard:
    """Return a guard that has learnt from further good samples too; see :meth:`Guard.update`."""
    detector = copy.deepcopy(require_updatable(guard.detector))
    grows = any(metric.growing for metric in guard.metrics)
    if guard.held is None and not grows:
        raise DataError(
            f"the guard keeps no calibration groups to score again: {detector.name} could not be updated when it was "
            "fitted; fit anew"
        )
    least = (1, groups_needed(guard.fpr) if grows else 1)
    metrics, size = guard.metrics, guard.card.group_size
    if isinstance(good, FeatureTable):
        if grows:
            raise SettingError(
                f"{detector.name} measures gradients in a metric that learns from samples; give samples, not a table"
            )
        guard.require_table(good)
        _require_enough(len(good), least, guard)
        _require_new(guard, good.keys, allow_training_samples)
        groups = table_halves(good, len(good) // 2, least, guard.card.seed)
        table, n_fit, new = groups.ordered, groups.n_fit, groups.clusters
    else:
        batches = guard.batches(good)
        n_groups = len(batches) // size
        _require_enough(n_groups, least, guard)
        _require_new(guard, batches.keys, allow_training_samples)
        halves = sample_halves(batches, min(n_groups // 2, n_groups - least[1]), least, size, guard.card.seed)
        ordered, n_fit, new = halves.ordered, halves.n_fit, halves.clusters
        if grows:
            fit_part = ordered.select(range(n_fit * size))
            metrics = update_metrics_on(guard.target, fit_part, metrics, guard.settings, report=report)
        table = extract_table(guard.target, ordered, detector.requires, guard.settings, metrics=metrics, report=report)
    clusters = _clusters(guard, new, (len(table) - n_fit) * size)
    warn_of_few_clusters(clusters, guard.fpr)
    for block, names in guard.columns.items():
        require_columns(names, table.columns.get(block, ()))
    detector.partial_fit(table.select(slice(0, n_fit)))
    card = table.card if grows else guard.card
    held = calibration_blocks(table.select(slice(n_fit, None)), detector, card)
    if not grows:
        assert guard.held is not None
        held = FeatureTable.concatenate([guard.held, held])
    return replace(
        guard,
        detector=detector,
        calibration=ConformalCalibration.from_scores(detector.score(held)),
        card=card,
        columns=dict(held.columns),
        metrics=metrics,
        held=None if grows else held,
        seen=np.union1d(guard.seen, table.keys),
        clusters=clusters,
    )


def _clusters(guard: Guard, new: tuple[int, ...] | None, samples: int) -> tuple[int, ...] | None:
    """Return the sizes of the clusters that calibrate with those of new samples, or None where all are independent."""
    known = None if guard.held is None else guard.clusters
    if known is None and new is None:
        return None
    before = 0 if guard.held is None else guard.held.keys.size
    return ((1,) * before if known is None else known) + ((1,) * samples if new is None else new)


def _require_new(guard: Guard, keys: KeyArray, allow_training_samples: bool) -> None:
    """Raise :class:`DataError` for samples that the guard or its models have learnt from."""
    known = int(among(keys, guard.seen).sum())
    if known:
        raise DataError(
            f"{known} of {keys.size} samples given to update were given to this guard before: what fits must not "
            "calibrate; leave them out"
        )
    if not allow_training_samples:
        require_held_out(guard.target, guard.companions, keys, "update")


def _require_enough(n_groups: int, least: tuple[int, int], guard: Guard) -> None:
    fit, calibration = least
    if n_groups < fit + calibration:
        raise DataError(
            f"{n_groups} new groups were given; {guard.detector.name} needs {fit} to learn from and, at a false-alarm "
            f"rate of {guard.fpr:g}, {calibration} new ones to calibrate, {fit + calibration} in all; give more"
        )
