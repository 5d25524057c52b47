"""What several runners say about their cases in the same words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.pipeline.reproduce.case import Case
from fisherscope.report.histograms import common_histogram
from fisherscope.report.text_table import TextCell, TextTable

MODELS_ON_PAGE: Final = 4
"""Of how many models a page shows figures where each has two."""
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_NAMES: Final = {"glow": "Glow", "vae": "VAE", "pixelcnn": "PixelCNN", "diffusion": "diffusion"}


def case_stem(case: Case) -> str:
    """Return what the file of a case's grid, family and timestep is called, e.g. ``colour-diffusion-t64``."""
    return f"{case.grid}-{case.family}" + ("" if case.timestep is None else f"-t{case.timestep}")


def family_title(family: str) -> str:
    """Return what figures call a model family."""
    return _NAMES.get(family, family)


def case_title(case: Case) -> str:
    """Return what a panel of a case says above it, e.g. ``diffusion of cifar10, T = 64``."""
    term = "" if case.timestep is None else f", T = {case.timestep}"
    return f"{family_title(case.family)} of {case.in_dist}{term}"


def case_json(case: Case) -> dict[str, Any]:
    """Return what names a case in results."""
    return {
        "grid": case.grid,
        "family": case.family,
        "model": case.model,
        "in_dist": case.in_dist,
        "timestep": case.timestep,
    }


def model_name(said: Mapping[str, Any]) -> str:
    """Return what a sentence calls the case of :func:`case_json`, e.g. ``diffusion-cifar10 at T = 64``."""
    term = "" if said["timestep"] is None else f" at T = {said['timestep']}"
    return f"{said['model']}{term}"


def further_models(stems: Sequence[str]) -> tuple[str, ...]:
    """Return the figures, two a model one after the other, that a page leaves out: all but those of four models."""
    models = len(stems) // 2
    shown = {i * models // MODELS_ON_PAGE for i in range(MODELS_ON_PAGE)}
    return tuple(stem for i, stem in enumerate(stems) if models > MODELS_ON_PAGE and i // 2 not in shown)


def by_stem(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Return the cases that share a figure, by :func:`case_stem`."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case_stem(case), []).append(case)
    return found


def grid_tables(
    models: Sequence[Mapping[str, Any]], sets: Callable[[Mapping[str, Any]], Mapping[str, TextCell]]
) -> dict[str, TextTable]:
    """Return one table a grid, called ``GRID-models``: a row a model (and group size), a column a set.

    Args:
        models: what :func:`case_json` and the runner say of each.
        sets: returns the cells of a model by the full name of the set; a set that it lacks has "-".
    """
    tables = {}
    for grid in dict.fromkeys(m["grid"] for m in models):
        found = {_row_name(m): sets(m) for m in models if m["grid"] == grid}
        names = list(dict.fromkeys(name for cells in found.values() for name in cells))
        rows = [(row, [cells.get(name, TextCell("-")) for name in names]) for row, cells in found.items()]
        tables[f"{grid}-models"] = TextTable("model", [(name.partition("[")[0],) for name in names], rows)
    return tables


def number_table(models: Sequence[Mapping[str, Any]], numbers: Mapping[str, Sequence[str]]) -> TextTable:
    """Return a table of a row a model (and group size), and a column for each heading of ``numbers``, in its words."""
    rows = [(_row_name(m), [TextCell(column[i]) for column in numbers.values()]) for i, m in enumerate(models)]
    return TextTable("model", [(heading,) for heading in numbers], rows)


def _row_name(said: Mapping[str, Any]) -> str:
    size = said.get("group_size", 1)
    return model_name(said) + (f", B = {size}" if size != 1 else "")


def bits_per_dim(table: FeatureTable, data_shape: tuple[int, ...] | None) -> NDArray[np.float64]:
    """Return -log2 p per number of a sample, shape (n,), from the block ``log_p`` in nats."""
    bits: NDArray[np.float64] = -table.block("log_p").ravel() / (math.prod(data_shape or ()) * math.log(2))
    return bits


def summary(values: NDArray[Any]) -> dict[str, Any]:
    """Return number, mean, standard deviation and :data:`QUANTILES` of some values as JSON values."""
    return {
        "n": len(values),
        "mean": float(np.mean(values)),
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "quantiles": [float(q) for q in np.quantile(values, QUANTILES)],
    }


def histogram_json(values: Mapping[str, NDArray[Any]], in_dist: str | None) -> dict[str, Any]:
    """Return the bars of :func:`~fisherscope.report.histograms.common_histogram` as JSON values."""
    edges, shares = common_histogram(values, in_dist)
    return {"edges": edges.tolist(), "percent": {name: share.tolist() for name, share in shares.items()}}
