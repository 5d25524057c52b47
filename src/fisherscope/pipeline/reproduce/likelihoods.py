"""Histograms of bits/dim of every set under the model of each set: where others are more likely than its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fisherscope.config import Strict
from fisherscope.evaluation import Bootstrap, Interval, metric_intervals
from fisherscope.evaluation.bootstrap import Clusters
from fisherscope.pipeline.reproduce.case import Case, RunSettings
from fisherscope.pipeline.reproduce.cases import (
    bits_per_dim,
    by_stem,
    case_json,
    case_title,
    grid_tables,
    histogram_json,
    model_name,
    summary,
)
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.histograms import HistogramPanel, histogram_panels
from fisherscope.report.text_table import TextCell


def run(context: Context, options: Strict) -> Outcome:
    """Measure every set under every model."""
    found = {case: _bits(context, case) for case in context.cases}
    figures, captions = {}, {}
    for stem, cases in by_stem(found).items():
        panels = [
            HistogramPanel(case_title(case), {n: m.bits for n, m in found[case].items()}, next(iter(found[case])))
            for case in cases
        ]
        figures[stem] = histogram_panels(panels, _label(cases[0]))
        captions[stem] = _caption(cases[0])
    models = [_model_json(context.settings, case, measured) for case, measured in found.items()]
    tables = grid_tables(models, _cells)
    captions |= dict.fromkeys(tables, _TABLE_CAPTION)
    return Outcome({"models": models}, _note(models), figures=figures, tables=tables, captions=captions)


class _Measured(NamedTuple):
    """Bits/dim of the samples of a set, and the cluster of each, or None where they are independent."""

    bits: NDArray[np.float64]
    clusters: Clusters | None


def _bits(context: Context, case: Case) -> dict[str, _Measured]:
    """Return what was measured by set, the in-distribution one first."""
    target = context.target(case)
    values = {}
    for name in (case.in_dist, *case.out_dists):
        data = context.batches(name, target)
        bits = bits_per_dim(context.table(target, data, ("log_p",)), target.data_shape)
        values[data.name] = _Measured(bits, data.joined_clusters)
    return values


def _model_json(settings: RunSettings, case: Case, measured: dict[str, _Measured]) -> dict[str, Any]:
    in_dist = next(iter(measured))
    sets = {name: summary(m.bits) for name, m in measured.items()}
    for name in (name for name in measured if name != in_dist):
        sets[name]["more_likely"] = asdict(_more_likely(settings, measured[in_dist], measured[name]))
    histogram = histogram_json({name: m.bits for name, m in measured.items()}, in_dist)
    return {**case_json(case), "sets": sets, "histogram": histogram}


def _more_likely(settings: RunSettings, own: _Measured, other: _Measured) -> Interval:
    """Return the chance that a random sample of another set is more likely than one of the model's own."""
    bootstrap = Bootstrap(settings.seed, settings.replicates, 0.95, own.clusters, other.clusters)
    # a sample of few bits is more likely: minus the bits score it
    return metric_intervals(-own.bits, -other.bits, bootstrap)["auroc"]


def _label(case: Case) -> str:
    if case.timestep is None:
        return "bits per dimension (← more likely)"
    return f"bits per dimension of the bound's term T = {case.timestep} (← more likely)"


def _caption(case: Case) -> str:
    what = "−log₂ p" if case.timestep is None else f"The term T = {case.timestep} of the bound of −log₂ p"
    return (
        f"{what} per dimension of test images of every set under the {case.family} model of each set. Filled: the set "
        "that the model was trained on. A set to the left of it is more likely than what the model has learnt."
    )


def _cells(model: Mapping[str, Any]) -> dict[str, TextCell]:
    """Return what the table says of a model, by set."""
    shares = {name: s["more_likely"] for name, s in model["sets"].items() if "more_likely" in s}
    return {
        name: TextCell(f"{100 * s['estimate']:.0f} %", f"[{100 * s['low']:.0f}, {100 * s['high']:.0f}]", s["low"] > 0.5)
        for name, s in shares.items()
    }


_TABLE_CAPTION: Final = (
    "Chance that a random image of the set is more likely than a random test image of the model's own set, with its "
    "95 % bootstrap interval; bold where all of that lies above 50 %: the paradox."
)


def _note(models: Sequence[dict[str, Any]]) -> str:
    """Say for which models another set is more likely than their own."""
    said, count, total = [], 0, 0
    for model in models:
        shares = {s.partition("[")[0]: v["more_likely"] for s, v in model["sets"].items() if "more_likely" in v}
        more = [s for s, share in shares.items() if share["low"] > 0.5]
        said += [f"{model_name(model)} ({', '.join(more)})"] if more else []
        count, total = count + len(more), total + len(shares)
    return (
        f"In {count} of {total} combinations of a model and another set, the other set is clearly more likely than the "
        f"model's own test set{': ' if said else ''}{'; '.join(said)}."
    )
