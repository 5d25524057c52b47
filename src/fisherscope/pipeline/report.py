"""From an evaluation to its page: gathers the numbers and pictures that the report shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import ModelError
from fisherscope.detectors import DEFAULT_DETECTOR
from fisherscope.detectors.layerwise_gaussian import LayerwiseGaussian
from fisherscope.models.base import GenerativeModel
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.evaluation import Evaluation, GroupResult
from fisherscope.pipeline.target import Target
from fisherscope.pipeline.versions import versions
from fisherscope.report import LayerHistogram, RankedImage, ReportContent, write_report

_GRID: Final = 64
_SHOWN: Final = 16
_IMAGE_AXES: Final = 3


def write_evaluation_report(
    evaluation: Evaluation, target: Target, sets: Sequence[Batches], folder: str | Path, command: str
) -> Path:
    """Write the HTML page, its figures and the records of an evaluation; return the page's path.

    Args:
        evaluation: what :func:`fisherscope.evaluate` returned.
        target: the model.
        sets: the sets that were evaluated, the in-distribution one first.
        folder: where the page goes.
        command: command line that makes the page again.
    """
    return write_report(report_content(evaluation, target, sets, command), folder)


def report_content(evaluation: Evaluation, target: Target, sets: Sequence[Batches], command: str) -> ReportContent:
    """Return what the page of an evaluation shows; arguments as :func:`write_evaluation_report`."""
    group = evaluation.groups[min(evaluation.groups)]
    detector = DEFAULT_DETECTOR if DEFAULT_DETECTOR in group.detectors else next(iter(group.detectors))
    most, least = _ranked_images(group, detector, sets)
    return ReportContent(
        title=f"{sets[0].name} under {target.name}",
        detector=detector,
        records=evaluation.records,
        pairs=tuple(pair for result in evaluation.groups.values() for pair in result.pairs.values()),
        protocol=evaluation.protocol,
        bits_per_dim=_bits_per_dim(group, sets),
        layers=_layers(evaluation, sets[0].name),
        most_novel=most,
        least_novel=least,
        samples=_samples(target),
        model_card=_model_card(target),
        versions=versions(),
        command=command,
    )


def _bits_per_dim(group: GroupResult, sets: Sequence[Batches]) -> dict[str, NDArray[Any]]:
    if not isinstance(sets[0].x, np.ndarray):
        return {}
    dims = math.prod(sets[0].x.shape[1:])
    tables = {sets[0].name: group.parts["test"], **group.out}
    return {name: -table.block("log_p").ravel() / (dims * math.log(2)) for name, table in tables.items()}


def _layers(evaluation: Evaluation, in_dist: str) -> tuple[LayerHistogram, ...]:
    """Two layers at each group size, chosen by position (a third and two thirds of the way), not by their result."""
    shown = []
    for size, group in evaluation.groups.items():
        detector = group.detectors.get(LayerwiseGaussian.name)
        if not isinstance(detector, LayerwiseGaussian):
            continue
        kept = detector.kept_
        for place in sorted({len(kept) // 3, 2 * len(kept) // 3}):
            column = int(kept[place])
            tables = {in_dist: group.parts["test"], **group.out}
            shown.append(
                LayerHistogram(
                    layer=group.parts["fit"].columns["grad_norm"][column],
                    group_size=size,
                    log_norms={n: detector.log_norms(t)[:, place] for n, t in tables.items()},
                    mean=float(detector.mean_[place]),
                    deviation=float(detector.std_[place]),
                )
            )
    return tuple(shown)


def _ranked_images(
    group: GroupResult, detector: str, sets: Sequence[Batches]
) -> tuple[tuple[RankedImage, ...], tuple[RankedImage, ...]]:
    """The most and the least novel test images of all sets, where single images were judged."""
    if group.group_size > 1 or not _is_images(sets[0]):
        return (), ()
    ranked: list[tuple[float, RankedImage]] = []
    first_pair = next(iter(group.pairs.values()))
    judged = [(sets[0], group.parts["test"], first_pair.scores_in[detector])]
    judged += [(s, group.out[s.name], group.pairs[s.name].scores_out[detector]) for s in sets[1:]]
    for data, table, scores in judged:
        row_of = {name: row for row, name in enumerate(data.ids)}
        p_values = group.calibrations[detector].p_value(scores)
        for (name,), score, p in zip(table.ids, scores, p_values, strict=True):
            ranked.append((float(score), RankedImage(data.x[row_of[name]], name, data.name, float(p))))
    ranked.sort(key=lambda pair: -pair[0])
    images = [image for _, image in ranked]
    return tuple(images[:_SHOWN]), tuple(reversed(images[-_SHOWN:]))


def _is_images(data: Batches) -> bool:
    x = data.x
    return isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 4 and x.shape[1] in (1, 3)


def _samples(target: Target) -> NDArray[np.uint8] | None:
    if not isinstance(target.module, GenerativeModel) or len(target.module.data_shape) != _IMAGE_AXES:
        return None
    try:
        drawn = target.module.sample(_GRID, seed=0).cpu().numpy()
    except ModelError:  # one that scores samples need not be able to draw any
        return None
    return drawn if drawn.dtype == np.uint8 else None


def _model_card(target: Target) -> dict[str, str]:
    parameters = [p for p in target.module.parameters() if p.requires_grad]
    facts = {
        "model": target.name,
        "class": type(target.module).__name__,
        "parameters": f"{sum(p.numel() for p in parameters):,} in {len(parameters)} tensors",
        "dtype": target.dtype_name,
        "fingerprint": target.fingerprint(),
    }
    card = target.module.card if isinstance(target.module, GenerativeModel) else None
    if card is not None and card.data:
        facts |= {
            "trained on": card.data,
            "training": f"{card.steps:,} steps, {card.minutes:g} minutes, seed {card.seed}",
            "bits/dim": ", ".join(f"{name} {value:.3f}" for name, value in card.bits_per_dim.items()),
            "command": card.command,
            "must not be used for": card.not_for,
        }
    return facts
