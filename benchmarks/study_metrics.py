"""Write docs/study_metrics.md: the Fisher metrics beside each other, on the development pairs alone.

Command: python benchmarks/study_metrics.py [--models NAME ...] [--limit N] [--zoo DIR] [--data-root DIR] [--work DIR]
Feature tables and scores are kept under --work, and an interrupted run goes on there.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study import as_json, plain, signed
from study_ablation_scores import COLOUR, MODELS
from study_ablations import cells, counted, difference, mean, there
from study_grid import FAMILIES, REPLICATES, Case, Settings, grid_context, study_parser, without_splits

from fisherscope.core.store import write_atomic, write_json
from fisherscope.models.zoo import zoo_root
from fisherscope.pipeline.reproduce.scores import score_case

DOCS = Path(__file__).parents[1] / "docs"
LIMIT = 300
SIZES = (1, 5)
METRICS = (
    *("diagonal", "diagonal-uncentred", "kfac", "kfac-uncentred", "ekfac", "low-rank", "low-rank-global"),
    *("equalised", "whitened", "whitened-inputs", "whitened-outputs"),
)
DETECTORS = ("total-norm", "layerwise-upper", "layerwise-gaussian", "gradient-dose", "fisher-dose")
"""The gradient's length in the metric, the layers' from above, the paper's densities, and densities of them all."""

HEAD = """# Fisher metrics beside each other

Written by `{command}`; do not edit by hand. All figures, those of the single pairs too, are in
[study_metrics.json](study_metrics.json).

In which [Fisher metric](metrics.md) is a gradient best measured? Five detectors, each on the plain norms (identity)
and in every metric, **on the development pairs alone** (fashion_mnist ↔ mnist, cifar10 ↔ gtsrb). `total-norm` is the
length of the whole gradient, Rao's score statistic in that metric; `layerwise-upper` sums what the layers' lengths have
above the fit set's, `layerwise-gaussian` is the paper's two-sided density of them, `gradient-dose` one density of all
of them and log p, and `fisher-dose` the default, which reads code lengths too. On the plain norms these last two read
estimates for convolution kernels, and of VAEs and diffusion models they judge the terms of log p one by one; in a
metric they take the whole gradient, so that their differences under those models are of both.

Mean AUROC over models and pairs; out-of-distribution (OOD) is the positive class. Behind an AUROC stands its
difference to the same detector on the plain norms, with a 95 % paired bootstrap interval ({replicates:,} resamples,
seed 0): it covers the draw of the test samples, not another training run. gtsrb is drawn by track at B = 1; groups of
five are drawn as if independent, so there their intervals are too narrow. The metrics are fitted on the same samples
as the detectors, so few that their estimates are coarse.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Score what has no scores yet and write the page."""
    parser = study_parser(__doc__, LIMIT)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="NAME", help="which of them")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page goes")
    options = parser.parse_args(arguments)
    # Where models and data lie differs from machine to machine and is no part of the result.
    given = [f"--limit={options.limit}"] * (options.limit != LIMIT) + ["--zoo=DIR"] * (options.zoo != zoo_root())
    given += ["--models", *options.models] * (tuple(options.models) != MODELS)
    page, figures = write_page(scored(options), shlex.join(["python", "benchmarks/study_metrics.py", *given]))
    write_json(options.docs / "study_metrics.json", figures)
    write_atomic(options.docs / "study_metrics.md", page.encode())
    print(page)


def in_metric(detector: str, metric: str) -> str:
    """Return the name of a detector whose gradients are measured in a metric."""
    return f"{detector}@{metric}"


def scored(options: argparse.Namespace) -> list[Case]:
    """Return every model and pair at each group size."""
    names = (*DETECTORS, *(in_metric(d, m) for d in DETECTORS for m in METRICS))
    settings = Settings(options.zoo, options.work, options.data_root, options.limit)
    context = grid_context(settings, "Fisher metrics on the development pairs.", names, COLOUR)
    places = [place for place in context.cases if place.model in options.models and place.out_dists]
    return [
        Case(place.family, without_splits(pair))
        for place in sorted(places, key=lambda place: FAMILIES.index(place.family))
        for pair in score_case(context, place, group_sizes=SIZES)
    ]


def write_page(cases: Sequence[Case], command: str) -> tuple[str, dict[str, Any]]:
    """Return the page and its figures."""
    figures: dict[str, Any] = {"means": [], "cells": cells(cases)}
    lines = ["## Models and samples\n", *(f"- {counted(c)}" for c in cases if c.pair.group_size == 1)]
    parts = [HEAD.format(command=command, replicates=REPLICATES), "\n".join(lines) + "\n"]
    for size in SIZES:
        chosen = [c for c in cases if c.pair.group_size == size]
        families = {family: part for family in FAMILIES if (part := [c for c in chosen if c.family == family])}
        for family, part in ({"all": chosen} | families).items():
            parts.append(table(family, size, part, figures))
    return "\n".join(parts), figures


def table(family: str, size: int, cases: Sequence[Case], figures: dict[str, Any]) -> str:
    """Return the metrics by the detectors, on the models of one family or on all of them."""
    levels = {detector: mean(cases, detector) for detector in DETECTORS}
    rows = [f"| plain norms | {' | '.join(map(plain, levels.values()))} |"]
    figures["means"] += [
        {"models": family, "group_size": size, "detector": detector, "auroc": as_json(level)}
        for detector, level in levels.items()
    ]
    for metric in METRICS:
        row = []
        for detector in DETECTORS:
            name = in_metric(detector, metric)
            if not there(cases, name):
                row.append("–")
                continue
            level, gain = mean(cases, name), difference(cases, name, detector)
            row.append(f"{level.estimate:.3f}, {signed(gain)}")
            figures["means"].append(
                {"models": family, "group_size": size, "detector": name}
                | {"auroc": as_json(level), "difference": as_json(gain)}
            )
        rows.append(f"| {metric} | {' | '.join(row)} |")
    title = "All models" if family == "all" else f"Models of {family}"
    head = f"| metric | {' | '.join(DETECTORS)} |\n| --- |{' :-: |' * len(DETECTORS)}\n"
    return f"## {title}, B = {size}\n\n{head}" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
