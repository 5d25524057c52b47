"""The engineer's front door: fit a guard on good samples and promise a false-alarm rate."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fisherscope.core.errors import CardMismatchError, DataError, SettingError
from fisherscope.core.package_code import own_code
from fisherscope.core.table import Card, FeatureTable
from fisherscope.detectors import (
    DEFAULT_DETECTOR,
    ConformalCalibration,
    Detector,
    is_updatable,
    make_detector,
    require_settings_of_name,
)
from fisherscope.detectors.conformal import groups_needed, require_fpr
from fisherscope.features.metrics import FisherMetric, require_own_name
from fisherscope.pipeline.batches import as_batches, require_resolved
from fisherscope.pipeline.companions import Given, as_companions, require_held_out
from fisherscope.pipeline.extraction import ExtractSettings, ReportProgress, extract_table, fit_metrics_on, metrics_in
from fisherscope.pipeline.guard import Guard, form_of
from fisherscope.pipeline.halves import sample_halves, table_halves, warn_of_few_clusters
from fisherscope.pipeline.target import LogProb, Target, as_target, require_served_dtype


def fit(
    model: nn.Module | Target | str | Path,
    data: Any,
    *,
    log_prob: LogProb | None = None,
    detector: str | Detector = DEFAULT_DETECTOR,
    fpr: float = 0.01,
    group_size: int | None = None,
    seed: int = 0,
    max_memory: int | None = None,
    allow_training_samples: bool = False,
    companions: Mapping[str, Given] | None = None,
    metrics: Sequence[FisherMetric] = (),
    report: ReportProgress | None = None,
) -> Guard:
    """Fit a guard on in-distribution samples that the model was not trained on.

    A random half (by ``seed``) fits the detector, the other half calibrates it. Averaged over such halves, new
    in-distribution groups raise false alarms at a rate of at most ``fpr``.

    Samples that come in clusters (frames of a video track, ``Samples.clusters``) are not independent: whole clusters
    are shuffled, and none has samples in both parts. With J clusters of equal size to calibrate and B = 1, NEW clusters
    raise false alarms at a mean rate of at most fpr + (1 - fpr) / (J + 1): the number of clusters decides how
    small a rate can be held, not that of samples, and some large clusters among small ones leave less
    (:attr:`Guard.false_alarm_bound`; a warning is logged where it is above 2 fpr). In that mean clusters count alike:
    where large ones are odd, the rate among all samples may be higher. A :class:`FeatureTable` knows no
    clusters; give samples.
    Samples that are equal count as one cluster, in a table too.

    Args:
        model: a module in the mode, dtype and on the device where it will serve, or the folder of a saved model.
        data: in-distribution samples: an array, tensor or pytree of tensors with the batch first, samples, the name
            or path of a set, or a :class:`FeatureTable` extracted from such samples.
        log_prob: callable ``(module, x) -> (n,)`` in nats; it receives ``seed`` and ``keys`` if it accepts them.
            Images reach it as 0..255 in the module's dtype. None for a model with its own ``log_prob``.
        detector: a name (``fisherscope.detector_names()``), ``package.module:Class``, or an unfitted detector, of which
            the guard takes a copy.
        fpr: wanted false-alarm rate; it needs at least ceil(1/fpr) - 1 calibration groups.
        group_size: B, how many samples are judged together; None: 1, or that of a feature table.
        seed: of the split and of the model's noise.
        max_memory: bytes that one gradient pass may use.
        allow_training_samples: fit even on samples that the model was trained on.
        companions: further models by name, for detectors that need them: ``background`` for the likelihood ratio,
            any others for WAIC.
        metrics: unfitted Fisher metrics of your own that the detector reads by their names (``total-norm@NAME``);
            copies of them are fitted.
        report: called with (samples done, samples in all).

    Returns:
        A guard that scores, gives p-values, predicts and saves.

    Raises:
        DataError: too few samples (the message names the number), NaN, or samples the model was trained on.
        ModelError: the model is in half precision.
        SettingError: a setting is out of range or of another type, or the detector has a built-in name, but not the
            settings that the name stands for.
    """
    fpr, chosen = require_fpr(fpr), _chosen(detector)
    for metric in metrics:
        require_own_name(metric)
    settings = ExtractSettings(1 if group_size is None else group_size, seed, max_memory=max_memory)
    seed, needed = settings.seed, groups_needed(fpr)
    target = as_target(model, log_prob)
    require_served_dtype(target)
    further = as_companions(companions, target)
    fitted: tuple[FisherMetric, ...] = ()
    sample_columns: tuple[str, ...] | None = None
    if isinstance(data, FeatureTable):
        _require_no_metric(chosen)
        if group_size is not None and settings.group_size != data.card.group_size:
            raise SettingError(
                f"group_size is {group_size}, but the feature table holds groups of {data.card.group_size}; leave it "
                "out, or give the samples"
            )
        _require_enough(len(data), needed, chosen, fpr)
        if not allow_training_samples:
            require_held_out(target, further, data.keys, "fit")
        groups = table_halves(data, _fit_groups(len(data), needed, chosen), (chosen.min_fit, needed), seed)
        table, n_fit, clusters = groups.ordered, groups.n_fit, groups.clusters
        warn_of_few_clusters(clusters, fpr)
        target_fingerprint = target.fingerprint()
        if table.card.model != target_fingerprint:
            raise CardMismatchError("model", target_fingerprint, table.card.model, "extract the table with this model")
        if table.card.dtype != target.dtype_name:
            raise CardMismatchError(
                "dtype", target.dtype_name, table.card.dtype, "give the model in the dtype of the table"
            )
        _require_own_code(table.card, target)
        form = form_of(data)
    else:
        batches, size = as_batches(data, target), settings.group_size
        n_groups = len(batches) // size
        form, sample_columns = batches.form, batches.columns
        require_resolved(batches.x, batches.name, batches.columns, target.dtype)
        _require_enough(n_groups, needed, chosen, fpr)
        if not allow_training_samples:
            require_held_out(target, further, batches.keys, "fit")
        settings = replace(settings, companions=further)
        halves = sample_halves(batches, _fit_groups(n_groups, needed, chosen), (chosen.min_fit, needed), size, seed)
        ordered, n_fit, clusters = halves.ordered, halves.n_fit, halves.clusters
        warn_of_few_clusters(clusters, fpr)
        fit_part = ordered.select(range(n_fit * size))
        fitted = fit_metrics_on(target, fit_part, metrics_in(chosen.requires), settings, own=metrics, report=report)
        table = extract_table(target, ordered, chosen.requires, settings, metrics=fitted, report=report)
    chosen.fit(table.select(slice(0, n_fit)))
    held = calibration_blocks(table.select(slice(n_fit, None)), chosen, table.card)
    rescored = is_updatable(chosen) and not any(metric.growing for metric in fitted)
    return Guard(
        target,
        chosen,
        ConformalCalibration.from_scores(chosen.score(held)),
        fpr,
        table.card,
        dict(held.columns),
        np.unique(table.keys),
        max_memory,
        fitted,
        further,
        held if rescored else None,
        clusters,
        form if target.data_shape is None else None,
        sample_columns,
    )


def _chosen(detector: str | Detector) -> Detector:
    if isinstance(detector, str):
        return require_settings_of_name(make_detector(detector))
    if not isinstance(detector, Detector):
        raise SettingError(
            f"detector is {detector!r}, expected a name (fisherscope.detector_names()), package.module:Class, or an "
            "instance of a fisherscope.Detector"
        )
    # A copy: an instance may fit several guards, and none may change when another is fitted.
    return copy.deepcopy(require_settings_of_name(detector))


def _fit_groups(n_groups: int, needed: int, detector: Detector) -> int:
    return min(max(n_groups // 2, detector.min_fit), n_groups - needed)


def calibration_blocks(table: FeatureTable, detector: Detector, card: Card) -> FeatureTable:
    """Return what a detector needs of a table of calibration groups, on a guard's card."""
    return replace(
        table,
        blocks={k: v for k, v in table.blocks.items() if k in detector.requires},
        columns={k: v for k, v in table.columns.items() if k in detector.requires},
        card=card,
    )


def _require_own_code(card: Card, target: Target) -> None:
    code, known = own_code(target.module, target.log_prob), card.settings.get("own_code", "")
    # that of a table with an own metric is of the metric too
    if known != code and not any("metric" in said for said in card.settings.get("features", {}).values()):
        raise CardMismatchError("own_code", code, known, "extract the table with this code and log_prob")


def _require_no_metric(detector: Detector) -> None:
    if names := metrics_in(detector.requires):
        raise SettingError(
            f"{detector.name} measures gradients in the metric '{names[0]}', which is fitted on samples; "
            "give samples instead of a table"
        )


def _require_enough(n_groups: int, needed: int, detector: Detector, fpr: float) -> None:
    if n_groups < needed + detector.min_fit:
        raise DataError(
            f"{n_groups} groups were given; a false-alarm rate of {fpr:g} needs {needed} to calibrate and "
            f"{detector.name} at least {detector.min_fit} to fit, {needed + detector.min_fit} in all; "
            f"give more in-distribution samples{' or a larger fpr' if needed > 1 else ''}"
        )
