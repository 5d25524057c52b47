"""Fitting metrics, and their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fisherscope.core.errors import CardMismatchError, DataError, NotFittedError, SettingError
from fisherscope.core.keys import fingerprint_arrays
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.features.gradients import Reduction
from fisherscope.features.metrics.base import FisherMetric
from fisherscope.features.metrics.raw import SketchSettings
from fisherscope.features.metrics.registry import is_built_in_metric, make_metric

FORMAT_VERSION = 2

RunPass = Callable[[Sequence[Reduction], int | None], None]
"""Shows the gradients of every fit sample, or of so many of them, one by one, to some reductions."""


def fit_metrics(metrics: Sequence[FisherMetric], run_pass: RunPass) -> None:
    """Fit unfitted metrics together; each stage takes one pass over the samples, shared by those that see as many.

    Args:
        metrics: fresh from :func:`make_metric`.
        run_pass: calls :func:`fisherscope.features.gradients.gradient_pass` with group size 1 for every batch of the
            fit samples, or for a representative choice of so many of them, and the reductions it is given.

    Raises:
        DataError: the gradients of all fit samples are the same, or one is NaN or infinite.
        ModelError: a metric needs Kronecker factors, and no parameter has any.
    """
    for stage in range(max((m.stages for m in metrics), default=0)):
        _run_stage([m for m in metrics if stage < m.stages], stage, run_pass)


def update_metrics(metrics: Sequence[FisherMetric], run_pass: RunPass) -> None:
    """Let fitted metrics take in further in-distribution samples; projections, bases and dampings stay as they are.

    Tables measured in them before have to be extracted again, and guards calibrated again. Sketches learn nothing but
    projections and so stay as they are.

    Raises:
        DataError: a low-rank metric has no room for the new samples. What was in the pass when it ran full has taken in
            a part of them: load or fit those metrics again.
    """
    for stage in sorted({s for m in metrics for s in m.growing}):
        _run_stage([m for m in metrics if stage in m.growing], stage, run_pass)


def _run_stage(metrics: Sequence[FisherMetric], stage: int, run_pass: RunPass) -> None:
    collectors = [(metric.max_samples, metric.collector(stage)) for metric in metrics]
    for limit in dict.fromkeys(limit for limit, _ in collectors):
        run_pass([collector for of, collector in collectors if of == limit], limit)
    for metric in metrics:
        metric.finish(stage)


def metric_fingerprint(metric: FisherMetric) -> str:
    """Return the hash of everything that a fitted metric has learnt, 32 hexadecimal digits."""
    return fingerprint_arrays(sorted(require_fitted(metric).state().items()), metric.name)


def require_fitted(metric: FisherMetric) -> FisherMetric:
    """Return the metric; one that has still to be fitted is a :class:`NotFittedError`."""
    if metric.stages and not metric.state():
        raise NotFittedError(f"the metric '{metric.name}' was used before it was fitted; fit it on good samples first")
    return metric


def save_metric(metric: FisherMetric, path: str | Path, sketch: SketchSettings | None = None) -> None:
    """Write a fitted metric as one safetensors file, atomically.

    Args:
        metric: fitted.
        path: of the file.
        sketch: sizes and projection seed that it was made with.
    """
    settings = sketch or SketchSettings()
    card = {
        "format_version": FORMAT_VERSION,
        "metric": metric.name,
        "fingerprint": metric_fingerprint(metric),
        "sketch": [settings.size, settings.layer_size, settings.projection_seed],
    }
    write_arrays(Path(path), metric.state(), card)


def load_metric(path: str | Path, own: FisherMetric | None = None) -> FisherMetric:
    """Read what :func:`save_metric` wrote.

    Args:
        path: of the file.
        own: an unfitted metric of your own class, which is fitted by this; a file does not decide what is imported.

    Raises:
        SettingError: the file holds a metric of your own, and none of its name was given.
        DataError: the file is truncated or no metric.
        CardMismatchError: its arrays are not those its card speaks of, or another version wrote it.
    """
    arrays, card = read_arrays(Path(path))
    if not isinstance(card, dict) or "metric" not in card:
        raise DataError(f"{path} is not a saved metric")
    if card["format_version"] != FORMAT_VERSION:
        raise CardMismatchError("format_version", FORMAT_VERSION, card["format_version"], "fit the metric again")
    if is_built_in_metric(card["metric"]):
        metric = make_metric(card["metric"], SketchSettings(*card["sketch"]))
    elif own is not None and own.name == card["metric"]:
        metric = own
    else:
        raise SettingError(f"{path} holds a metric of your own, '{card['metric']}'; give an unfitted one of that name")
    metric.restore(arrays)
    found = metric_fingerprint(metric)
    if found != card["fingerprint"]:
        raise CardMismatchError("fingerprint", card["fingerprint"], found, "the file was changed; fit the metric again")
    return metric
