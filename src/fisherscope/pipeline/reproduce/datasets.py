"""Samples and statistics of every data set: sizes, levels, duplicates, traces of JPEG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field

from fisherscope.config import Strict
from fisherscope.core.errors import DataError
from fisherscope.core.keys import among
from fisherscope.data import Samples
from fisherscope.data.samples import describe_shape
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.image_statistics import block_excess, fine_detail, level_statistics
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.datasets import LEVEL_EDGES, level_figure, level_histogram
from fisherscope.report.pictures import mosaic_table
from fisherscope.report.text_table import TextCell, TextTable


class Options(Strict):
    """Settings of this runner.

    Attributes:
        shown: images of each set in the pictures, 0 for no pictures; a page never shows them, as some sets may not be
            passed on.
    """

    shown: int = Field(default=36, ge=0)


def run(context: Context, options: Options) -> Outcome:
    """Look at both splits of every set, at most the experiment's limit of images of each split.

    Duplicates are counted among those: a set that is cut off may have more.
    """
    figures: dict[str, Figure] = {}
    captions, found, images = {}, [], []
    for grid, names in context.sets.items():
        splits = {name: parts for name in names if "test" in (parts := _splits(context, name))}
        if not splits:
            continue
        tests = {name: parts["test"].x for name, parts in splits.items()}
        if options.shown:
            row = {name: x[: options.shown] for name, x in tests.items()}
            figures[f"{grid}-images"] = mosaic_table({"": row}, list(row))
            images.append(f"{grid}-images")
            captions[f"{grid}-images"] = f"{options.shown} test images of each set."
        figures[f"{grid}-levels"] = level_figure({name: level_histogram(x) for name, x in tests.items()})
        captions[f"{grid}-levels"] = "Share of the pixel values of all test images that lie at each level."
        found += [{"grid": grid, "set": name, **_set_json(parts, context)} for name, parts in splits.items()]
    results = {"sets": found, "level_edges": LEVEL_EDGES.tolist()}
    tables = {"statistics": _table(found)}
    captions |= _table_caption()
    return Outcome(results, _note(found), figures=figures, tables=tables, captions=captions, off_page=tuple(images))


def _splits(context: Context, name: str) -> dict[str, Samples]:
    """Return the splits that are there; the others are skipped by name. Of the hub only the test split is fetched."""
    found = {}
    for split in ("test",) if context.on_hub(name) else ("train", "test"):
        try:
            found[split] = context.samples(name, split=split)
        except DataError as cause:
            context.skip(f"{name}[{split}]", str(cause))
    return found


def _set_json(parts: dict[str, Samples], context: Context) -> dict[str, Any]:
    test = parts["test"]
    keys = np.concatenate([samples.keys for samples in parts.values()])
    return {
        "shape": list(test.shape),
        "sizes": {split: len(samples) for split, samples in parts.items()},
        "cut_off": [split for split, samples in parts.items() if len(samples) == context.experiment.limit],
        "duplicates": int(len(keys) - len(np.unique(keys))),
        "test_in_train": int(among(test.keys, parts["train"].keys).sum()) if "train" in parts else None,
        "levels": level_statistics(test.x),
        "histogram": level_histogram(test.x).tolist(),
        "block_excess": block_excess(test.x),
        "detail": fine_detail(test.x),
    }


def _table(found: Sequence[dict[str, Any]]) -> TextTable:
    heads = ["size", "train", "test", "duplicates", "mean", "deviation", "range", "0 or 255", "variation"]
    heads += ["block excess", "detail", "colour detail"]
    rows = [(entry["set"], list(_cells(entry))) for entry in found]
    return TextTable("set", [(head,) for head in heads], rows)


def _cells(entry: dict[str, Any]) -> Iterable[TextCell]:
    levels, blocks = entry["levels"], entry["block_excess"]
    yield TextCell(describe_shape(tuple(entry["shape"])))
    for split in ("train", "test"):
        size = entry["sizes"].get(split)
        yield TextCell("-" if size is None else f"{'≥ ' if split in entry['cut_off'] else ''}{size:,}")
    yield TextCell(f"{'≥ ' if entry['cut_off'] else ''}{entry['duplicates']}")
    yield TextCell(f"{levels['mean']:.1f}")
    yield TextCell(f"{levels['deviation']:.1f}")
    yield TextCell(f"{levels['least']}-{levels['greatest']}")
    yield TextCell(f"{100 * levels['saturated']:.1f} %")
    yield TextCell(f"{levels['total_variation']:.1f}")
    yield (
        TextCell("-") if blocks is None else TextCell(f"{blocks['excess']:+.2f} %", f"± {blocks['standard_error']:.2f}")
    )
    for value in entry["detail"].values():
        yield TextCell("-" if value is None else f"{value:.2f}")


def _table_caption() -> dict[str, str]:
    return {
        "statistics": "Both splits (≥: cut off at the limit); levels of the test images (0 to 255), and the mean "
        "difference of neighbouring pixels (variation). Duplicates: images that equal another one of either split, "
        "among the images taken: a set of which a split is cut off may have more (≥). "
        "Traces of JPEG: by how much neighbours differ more across the borders of 8x8 blocks than beside them, with "
        "its standard error, and the detail of brightness and of colour (second differences over variance), which "
        "JPEG lowers for colour. Content that lies alike in all images (digits, faces) has borders of its own."
    }


def _note(found: Sequence[dict[str, Any]]) -> str:
    """Say which sets have duplicates or traces of JPEG."""
    twice = [f"{e['set']} ({e['duplicates']})" for e in found if e["duplicates"]]
    blocks = [e["set"] for e in found if e["block_excess"] is not None and _stands_out(e["block_excess"])]
    weak = [
        f"{e['set']} ({e['detail']['chroma'] / e['detail']['luma']:.2f})"
        for e in found
        if e["detail"]["chroma"] is not None and e["detail"]["chroma"] < e["detail"]["luma"] / 2
    ]
    cut_off = [e["set"] for e in found if e["cut_off"]]
    among = f" (among the images taken; of {', '.join(cut_off)} not all were, which hides some)" if cut_off else ""
    return (
        f"Sets with duplicates{among}: {', '.join(twice) or 'none'}. Sets whose block borders stand out (an excess "
        f"above three standard errors and above that of every other phase of the grid): {', '.join(blocks) or 'none'}; "
        "content that lies alike in all images, as digits do, does that too. Sets whose detail in colour is less than "
        "half of that in brightness, as JPEG with halved colour resolution leaves it (ratio): "
        f"{', '.join(weak) or 'none'}. A detector can use such traces instead of content."
    )


def _stands_out(blocks: dict[str, Any]) -> bool:
    phases: NDArray[np.float64] = np.array(blocks["phases"])
    return bool(phases[0] > 3 * blocks["standard_error"] and phases[0] > phases[1:].max())
