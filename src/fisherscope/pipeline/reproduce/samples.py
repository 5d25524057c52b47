"""Sample grids of every model, on demand beside test images of the set that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fisherscope.config import Strict
from fisherscope.core.errors import ModelError
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError
from fisherscope.pipeline.reproduce.cases import case_json, family_title
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.drawn import model_samples
from fisherscope.pipeline.reproduce.image_statistics import level_statistics
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.pictures import mosaic_table
from fisherscope.report.text_table import TextCell, TextTable

_TEST: Final = "test images"
Images = NDArray[np.uint8]


class Options(Strict):
    """Settings of this runner.

    Attributes:
        shown: samples of each model in the figure; statistics are of the experiment's limit.
        test_images: whether the figure shows test images too; some sets may not be redistributed.
    """

    shown: int = Field(default=36, ge=1)
    test_images: bool = False


def run(context: Context, options: Options) -> Outcome:
    """Draw from every model; one that cannot be sampled from is skipped by name."""
    tables: dict[str, dict[str, dict[str, Images]]] = {}
    models = []
    for case in context.cases:
        drawn = _drawn(context, case, max(options.shown, context.experiment.limit))
        if drawn is None:
            continue
        test = context.samples(case.in_dist, limit=len(drawn), shape=(drawn.shape[1], drawn.shape[2], drawn.shape[3])).x
        row = tables.setdefault(case.grid, {}).setdefault(case.in_dist, {_TEST: test} if options.test_images else {})
        row[family_title(case.family)] = drawn
        models.append({**case_json(case), "samples": level_statistics(drawn), "test": level_statistics(test)})
    if not models:
        raise NothingLeftError(f"no model can be sampled from: {context.skipped_text()}")
    figures = {grid: _figure(rows, options.shown) for grid, rows in tables.items()}
    captions = dict.fromkeys(figures, f"{options.shown} draws of each model of each set.")
    captions["models"] = (
        "Levels (0 to 255) of the draws and, in brackets, of test images: mean, standard deviation, and mean "
        "difference of neighbouring pixels."
    )
    return Outcome(
        {"models": models}, _note(models), figures=figures, tables={"models": _table(models)}, captions=captions
    )


def _drawn(context: Context, case: Case, count: int) -> Images | None:
    try:
        return model_samples(context, case, count)
    except ModelError as cause:
        context.skip(f"samples of {case.model}", str(cause))
        return None


def _figure(rows: dict[str, dict[str, Images]], shown: int) -> Any:
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    return mosaic_table({name: {c: x[:shown] for c, x in row.items()} for name, row in rows.items()}, list(columns))


def _table(models: Sequence[dict[str, Any]]) -> TextTable:
    heads = {"mean": "mean", "deviation": "deviation", "total_variation": "neighbours"}
    rows = [
        (m["model"], [TextCell(f"{m['samples'][name]:.1f}", f"({m['test'][name]:.1f})") for name in heads])
        for m in models
    ]
    return TextTable("model", [(head,) for head in heads.values()], rows)


def _note(models: Sequence[dict[str, Any]]) -> str:
    """Say how the draws differ from test images in the plainest statistics."""
    ratios = {m["model"]: m["samples"]["total_variation"] / m["test"]["total_variation"] for m in models}
    least, most = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    return (
        "Neighbouring pixels of the draws differ by "
        f"{ratios[least]:.2f} ({least}) to {ratios[most]:.2f} ({most}) times what those of test images do."
    )
