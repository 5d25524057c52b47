"""Guards as folders: safetensors and JSON, nothing that is executed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from torch import nn

from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.core.keys import fingerprint_arrays
from fisherscope.core.package_code import own_code
from fisherscope.core.parts import part
from fisherscope.core.store import atomic_folder, read_arrays, read_card, write_arrays
from fisherscope.core.table import Card, FeatureTable
from fisherscope.detectors import ConformalCalibration, Detector, is_built_in, make_detector
from fisherscope.features.metrics import (
    FisherMetric,
    is_built_in_metric,
    load_metric,
    metric_fingerprint,
    save_metric,
)
from fisherscope.models.base import is_of_library, load_model
from fisherscope.pipeline.companions import Given, restore_companions, save_companions
from fisherscope.pipeline.guard import Guard, require_fitting_table, sketch_settings
from fisherscope.pipeline.target import LogProb, Target, as_target, parse_device, parse_dtype

FORMAT_VERSION: Final = 5
_GUARD_FILE: Final = "guard.safetensors"
_HELD_FILE: Final = "calibration.safetensors"
_LOG = logging.getLogger(__name__)


def save_guard(guard: Guard, folder: Path) -> None:
    """Write a guard; see :meth:`Guard.save`."""
    with atomic_folder(folder, _GUARD_FILE) as new:
        _write(guard, new)


def _write(guard: Guard, folder: Path) -> None:
    module = guard.target.module
    if is_of_library(module) and guard.target.log_prob is None:
        module.save(folder / "model")
    head = {
        "format_version": FORMAT_VERSION,
        "detector": guard.detector.name,
        "fpr": guard.fpr,
        "card": asdict(guard.card),
        "columns": {k: list(v) for k, v in guard.columns.items()},
        "metrics": {metric.name: metric_fingerprint(metric) for metric in guard.metrics},
        "companions": save_companions(guard.companions, folder),
        "held": None if guard.held is None else _held_fingerprint(guard.held),
        "clusters": guard.clusters,
        "form": guard.form,
        "sample_columns": guard.sample_columns,
        "own_log_prob": guard.target.log_prob is not None,
        "own_detector": own_code(guard.detector),
    }
    if guard.held is not None:
        guard.held.save(folder / _HELD_FILE)
    arrays = {f"detector.{k}": v for k, v in guard.detector.state().items()}
    for metric in guard.metrics:
        save_metric(metric, _metric_file(folder, metric.name), sketch_settings(guard.card))
    arrays |= {"calibration": guard.calibration.scores, "seen": guard.seen}
    write_arrays(folder / _GUARD_FILE, arrays, head)


def load(
    folder: str | Path,
    module: nn.Module | None = None,
    log_prob: LogProb | None = None,
    *,
    detector: Detector | None = None,
    device: str = "cpu",
    max_memory: int | None = None,
    companions: Mapping[str, Given] | None = None,
    metrics: Sequence[FisherMetric] = (),
) -> Guard:
    """Load a guard that :meth:`Guard.save` wrote. Nothing in the folder is executed or unpickled.

    Args:
        folder: the saved folder.
        module: the guarded module; None where it was saved along (a :class:`GenerativeModel`).
        log_prob: its log-prob callable, as it was given to :func:`fit`.
        detector: an unfitted instance, needed only for a detector class of your own.
        device: where a model that was saved along goes.
        max_memory: bytes that one gradient pass may use.
        companions: those of the fit that are modules of your own, by name.
        metrics: unfitted instances, needed only for Fisher metrics of your own.

    A warning is logged where the code of the user's own model, log_prob, detector or metric has changed since the fit.

    Raises:
        CardMismatchError: the module is not the one the guard was fitted for, or the detector is called otherwise.
        ModelError: no module was saved along and none is given.
    """
    folder = Path(folder)
    card = saved_card(folder)
    arrays, head = read_arrays(folder / _GUARD_FILE)
    target = _guarded_target(folder, module, log_prob, card, device)
    fingerprint = target.fingerprint()
    if fingerprint != card.model:
        raise CardMismatchError("model", card.model, fingerprint, "give the module that the guard was fitted for")
    if target.dtype_name != card.dtype:
        raise CardMismatchError("dtype", card.dtype, target.dtype_name, f"convert the module to {card.dtype}")
    given = target.log_prob is not None
    if head["own_log_prob"] != given:
        wanted = "pass log_prob= as it was given to fit" if head["own_log_prob"] else "leave log_prob= out"
        raise ModelError(f"{folder} was fitted {'without' if given else 'with'} a log_prob of its own; {wanted}")
    chosen = copy.deepcopy(detector) or _built_in(head["detector"])
    if chosen.name != head["detector"]:
        raise CardMismatchError("detector", head["detector"], chosen.name, "give the detector of the fit")
    chosen.restore(part(arrays, "detector."))
    columns = {k: tuple(v) for k, v in head["columns"].items()}
    calibration = ConformalCalibration.from_scores(arrays["calibration"])
    fitted = _load_metrics(folder, head["metrics"], metrics)
    further = restore_companions(folder, head["companions"], companions, target)
    if own_code(target.module, target.log_prob, *fitted) != card.settings.get("own_code", ""):
        _warn_of_code(f"{card.model_name}, of its log_prob or of a metric", "log p or a gradient")
    if own_code(chosen) != head["own_detector"]:
        _warn_of_code(f"the detector {chosen.name}", "the score")
    held = _load_held(folder, head["held"], card, columns, chosen) if head["held"] else None
    return Guard(
        target,
        chosen,
        calibration,
        head["fpr"],
        card,
        columns,
        arrays["seen"],
        max_memory,
        fitted,
        further,
        held,
        tuple(head["clusters"]) if head["clusters"] else None,
        head["form"],
        tuple(head["sample_columns"]) if head["sample_columns"] else None,
    )


def _warn_of_code(whose: str, what: str) -> None:
    _LOG.warning("fisherscope: the code of %s is not that of the fit; if that changes %s, fit again", whose, what)


def saved_card(folder: Path) -> Card:
    """Return the card of a saved guard, which says what to load its model as."""
    if not (folder / _GUARD_FILE).is_file():
        raise DataError(f"{folder} is not a saved detector: it holds no {_GUARD_FILE}")
    head = read_card(folder / _GUARD_FILE)
    if head.get("format_version") != FORMAT_VERSION:
        raise CardMismatchError("format_version", FORMAT_VERSION, head.get("format_version"), "fit the detector again")
    return Card.from_json(head["card"])


def _held_fingerprint(held: FeatureTable) -> str:
    return fingerprint_arrays((name, held.blocks[name]) for name in sorted(held.blocks))


def _load_held(
    folder: Path, expected: str, card: Card, columns: dict[str, tuple[str, ...]], detector: Detector
) -> FeatureTable:
    held = FeatureTable.load(folder / _HELD_FILE)
    require_fitting_table(card, columns, detector.requires, held)
    found = _held_fingerprint(held)
    if found != expected:
        raise CardMismatchError("calibration groups", expected, found, "copy the folder whole, or fit again")
    return held


def _guarded_target(
    folder: Path, module: nn.Module | None, log_prob: LogProb | None, card: Card, device: str
) -> Target:
    if module is not None:
        return as_target(module, log_prob)
    if log_prob is not None:
        raise SettingError("a log_prob was given without the module that it asks; pass module= too, or leave it out")
    if not (folder / "model" / "model.json").is_file():
        raise ModelError(
            f"{folder} holds no model of its own (it guards {card.model_name}); pass module= and log_prob=, on the "
            "command line --model package.module:factory"
        )
    module = load_model(folder / "model", device=parse_device(device), dtype=parse_dtype(card.dtype))
    return Target(module, None, card.model_name)


def _built_in(name: str) -> Detector:
    # A name from a file must not decide what gets imported.
    if not is_built_in(name):
        raise SettingError(
            f"the guard uses a detector of your own, '{name}'; pass an unfitted one as "
            "detector= (on the command line: --detector-class package.module:Class)"
        )
    return make_detector(name)


def _metric_file(folder: Path, name: str) -> Path:
    return folder / "metrics" / f"{name.replace(':', '-')}.safetensors"


def _load_metrics(
    folder: Path, fingerprints: dict[str, str], given: Sequence[FisherMetric]
) -> tuple[FisherMetric, ...]:
    own = {metric.name: metric for metric in given}
    metrics = []
    for name, expected in fingerprints.items():
        # A name from a file must be known before it becomes a path, and must not decide what gets imported.
        if not is_built_in_metric(name) and name not in own:
            raise SettingError(
                f"the guard measures gradients in '{name}', which is no metric of the library; pass an unfitted one of "
                "your own in metrics= (on the command line: --metric-class package.module:Class)"
            )
        metric = load_metric(_metric_file(folder, name), copy.deepcopy(own.get(name)))
        found = metric_fingerprint(metric)
        if found != expected:
            raise CardMismatchError(f"metric {name}", expected, found, "fit the detector again")
        metrics.append(metric)
    return tuple(metrics)
