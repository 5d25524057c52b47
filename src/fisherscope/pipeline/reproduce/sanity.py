"""Controls: the test set's own copies, images without content, and the model's own samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from fisherscope.config import Strict
from fisherscope.core.errors import ModelError
from fisherscope.data import Samples
from fisherscope.data.controls import blurred, constant_images, jpeg_coded, resampled, white_noise
from fisherscope.evaluation import ResampledPair
from fisherscope.evaluation.protocol import FIT_SHARE
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.drawn import model_samples
from fisherscope.pipeline.reproduce.grouped import pair_json
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.pipeline.reproduce.scores import ScoreRequest, score
from fisherscope.pipeline.target import Target
from fisherscope.report.text_table import TextCell, TextTable
from fisherscope.report.theme import display_name

COPY, EMPTY, OTHER, OWN = "copy", "no content", "another set", "own samples"
_CLEARLY: Final = 0.1


class Options(Strict):
    """Settings of this runner.

    Attributes:
        blur_radius: of the Gaussian blur, in pixels.
        jpeg_quality: from 1 to 95.
        resize_factor: images are shrunk to this share of their sides and grown back.
    """

    blur_radius: float = 1.0
    jpeg_quality: int = 75
    resize_factor: float = 0.5


@dataclass(frozen=True)
class Row:
    """What a model's detectors say of one control.

    Attributes:
        case: model and sets.
        kind: :data:`COPY`, :data:`EMPTY`, :data:`OTHER` or :data:`OWN`.
        control: what it is.
        pair: figures.
    """

    case: Case
    kind: str
    control: str
    pair: ResampledPair


def run(context: Context, options: Options) -> Outcome:
    """Score the controls of every case."""
    rows = [row for case in context.cases for row in _rows(context, case, options)]
    if not rows:
        raise NothingLeftError(f"no detector can serve any model: {context.skipped_text()}")
    keys = dict.fromkeys((row.case.label, row.pair.group_size) for row in rows)
    tables, captions = {}, {}
    for label, size in keys:
        stem = f"{label.replace(', T = ', '-t')}-b{size}"
        tables[stem] = _table([r for r in rows if (r.case.label, r.pair.group_size) == (label, size)])
        captions[stem] = _caption(label, size)
    means = list(_means(rows))
    results = {"records": [record for row in rows for record in _records(row)], "means": means}
    return Outcome(results, _note(means), tables=tables, captions=captions)


def _rows(context: Context, case: Case, options: Options) -> Iterator[Row]:
    target = context.target(case)
    in_dist = context.in_dist(case, target)
    test = in_dist.select(in_dist.split(1, context.settings.seed).test)
    controls = {
        **{name: (COPY, data) for name, data in _copies(test, options)},
        **{name: (EMPTY, data) for name, data in _empty(test, context.settings.seed)},
        **{name: (OTHER, context.batches(name, target, limit=len(test))) for name in case.out_dists},
    }
    names = {data.name: (kind, name) for name, (kind, data) in controls.items()}
    request = _request(context, case.name, target, in_dist, [data for _, data in controls.values()])
    for pair in score(context, request):
        yield Row(case, *names[pair.out_dist], pair)
    try:
        own = _own_samples(context, case, target)
    except ModelError as cause:
        context.skip(f"samples of {case.model}", str(cause))
        return
    for pair in score(context, _request(context, f"{case.name}, own samples", target, own, [test])):
        yield Row(case, OWN, "test set, against samples of the model", pair)


def _request(context: Context, name: str, target: Target, in_dist: Batches, others: Sequence[Batches]) -> ScoreRequest:
    experiment = context.experiment
    return ScoreRequest(name, target, in_dist, tuple(others), experiment.detectors, experiment.group_sizes)


def _copies(test: Batches, options: Options) -> Iterable[tuple[str, Batches]]:
    """Yield copies of images, each with the key of its original and hence the same noise of the model."""
    changed = {
        f"blur, radius {options.blur_radius:g}": blurred(test.x, options.blur_radius),
        f"JPEG, quality {options.jpeg_quality}": jpeg_coded(test.x, options.jpeg_quality),
        f"shrunk to {options.resize_factor:g} and back": resampled(test.x, options.resize_factor),
    }
    for name, x in changed.items():
        yield name, replace(test, x=x, name=f"{test.name} ({name})")


def _empty(test: Batches, seed: int) -> Iterable[tuple[str, Batches]]:
    shape = test.x.shape[1:]
    for name, make in (("white noise", white_noise), ("constant colour", constant_images)):
        x = make(len(test), shape, seed)
        yield name, as_batches(Samples.from_array(x, [f"{name}[{i}]" for i in range(len(x))], name))


def _own_samples(context: Context, case: Case, target: Target) -> Batches:
    count, name = round(context.experiment.limit / FIT_SHARE), f"samples of {case.model}"
    x = model_samples(context, case, count)
    return as_batches(Samples.from_array(x, [f"{name}[{i}]" for i in range(count)], name), target)


def _table(rows: Sequence[Row]) -> TextTable:
    detectors = list(dict.fromkeys(d for row in rows for d in row.pair.estimates))
    lines = [
        (f"{row.case.in_dist}: {display_name(row.control)}", [_cell(row.pair, detector) for detector in detectors])
        for row in rows
    ]
    starts = [i for i in range(1, len(rows)) if rows[i].case != rows[i - 1].case]
    return TextTable("in-distribution: control", [(d,) for d in detectors], lines, rules=starts)


def _cell(pair: ResampledPair, detector: str) -> TextCell:
    if detector not in pair.estimates:
        return TextCell("-")
    found = pair.interval(detector)
    return TextCell(f"{found.estimate:.3f}", found.ends(".3f"))


def _records(row: Row) -> Iterator[dict[str, Any]]:
    place = {"model": row.case.label, "kind": row.kind, "control": row.control, "group_size": row.pair.group_size}
    for detector in row.pair.estimates:
        yield {**place, "detector": detector, **pair_json(row.pair, detector)}


def _means(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield the mean AUROC of every detector, family and group size over each kind of control.

    ``moved_by_copies`` is the mean of |AUROC - 0.5| over the copies: a detector that finds some of them more novel and
    others less than their originals sees the difference as well. It is None where the detector scored none of them.
    """
    keys = dict.fromkeys((r.case.label, r.pair.group_size, d) for r in rows for d in r.pair.estimates)
    for label, size, detector in keys:
        own = [r for r in rows if (r.case.label, r.pair.group_size) == (label, size) and detector in r.pair.estimates]
        figures = {
            kind: float(np.mean([r.pair.estimates[detector]["auroc"] for r in own if r.kind == kind]))
            for kind in dict.fromkeys(r.kind for r in own)
        }
        copies = [r.pair.estimates[detector]["auroc"] for r in own if r.kind == COPY]
        moved = float(np.mean(np.abs(np.subtract(copies, 0.5)))) if copies else None
        place = {"model": label, "group_size": size, "detector": detector}
        yield {**place, "auroc": figures, "moved_by_copies": moved}


def _caption(label: str, size: int) -> str:
    return (
        f"AUROC of controls under models of the family {label}, B = {size}, with 95 % bootstrap intervals. Copies are "
        "of the very test images that they are compared with. 0.5: a detector does not see the difference."
    )


def _note(means: Sequence[dict[str, Any]]) -> str:
    """Say which detectors tell copies of images from the images, and how well they tell other sets."""
    sentences = []
    for size, label in dict.fromkeys((m["group_size"], m["model"]) for m in means):
        chosen = [
            m for m in means if (m["group_size"], m["model"]) == (size, label) and m["moved_by_copies"] is not None
        ]
        react = [
            f"{m['detector']} ({m['moved_by_copies']:.2f} from it; other sets' AUROC {_two(m['auroc'].get(OTHER))})"
            for m in chosen
            if m["moved_by_copies"] > _CLEARLY
        ]
        calm = [m["detector"] for m in chosen if m["moved_by_copies"] <= _CLEARLY]
        sentences.append(
            f"{label}, B = {size}: the AUROC of copies is on average more than {_CLEARLY:g} from 0.5 for "
            f"{', '.join(react) or 'no detector'}; less for {', '.join(calm) or 'none'}."
        )
    return " ".join(sentences)


def _two(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
