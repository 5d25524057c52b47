"""Write docs/study_runs.md: how much another training run of the same model moves the study's figures.

Command: python benchmarks/study_runs.py [--further DIR] [--limit N] [--zoo DIR] [--data-root DIR] [--work DIR]
The zoo's own FAMILY-SET-seedN are used, and those below --further, which `fisherscope train --config
experiments/train/FAMILY-SET.toml --seed N --out DIR/FAMILY-SET-seedN` makes. Feature tables and scores are kept under
--work, and an interrupted run goes on there.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from study_grid import (
    COLOUR,
    DEVELOPMENT,
    EXACT,
    FAMILIES,
    PAPER,
    RIVALS,
    SEEN,
    Case,
    Settings,
    grid_context,
    study_parser,
    without_splits,
)

from fisherscope.core.errors import DataError
from fisherscope.core.store import write_atomic, write_json
from fisherscope.detectors import DEFAULT_DETECTOR
from fisherscope.models.files import read_head
from fisherscope.models.zoo import zoo_root
from fisherscope.pipeline.reproduce.scores import ScoreRequest, score
from fisherscope.pipeline.target import load_target

DOCS = Path(__file__).parents[1] / "docs"
LIMIT = 1000
SIZES = (1, 5)
DETECTORS = (DEFAULT_DETECTOR, EXACT, "gradient-dose", "complexity-dose", PAPER, *RIVALS)

Values = NDArray[np.float64]
Figure = Callable[[Case], Values]
"""What is looked at in a case: the AUROC, or a difference of two, first; then its replicates, (1 + R,)."""

HEAD = """# Another training run

Written by `{command}`; do not edit by hand. All figures are in [study_runs.json](study_runs.json).

The intervals of all other pages cover the draw of the test samples. How much does a figure move when the same model
is trained again, from another seed, and judged on the SAME samples? Measured on models that were trained several
times, **on the study's development pairs and the two pairs that had been looked at before**, never on its headline:

{models}

Seed 0 is the study's own model. Further runs are `zoo:MODEL-seedN` or, where the zoo has none, made by `fisherscope
train --config experiments/train/MODEL.toml --seed N --out DIR/MODEL-seedN`.

*Training* is the standard deviation between runs (n - 1), *samples* that of {replicates:,} bootstrap resamples of the
test samples (gtsrb by track at B = 1): of a single model and pair, the root of the mean square over all, and of the
mean over all {cells} models and pairs. Pairs of one model have their training in common, models have not.
`pixel-mahalanobis` reads no model: its 0 shows that the samples are the same.
"""
HEADLINE_MODELS = len(FAMILIES) * len(
    {a for a in COLOUR for b in COLOUR if a != b and (a, b) not in (*DEVELOPMENT, *SEEN)}
)
"""How many models the mean of the study's headline is over."""


@dataclass(frozen=True)
class Run:
    """One model of several that were trained alike.

    Attributes:
        model: FAMILY-SET.
        seed: of the training.
        bits_per_dim: on held-out samples of its set, by split.
        cases: each pair at each group size.
    """

    model: str
    seed: int
    bits_per_dim: dict[str, float]
    cases: tuple[Case, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Score what has no scores yet and write the page."""
    parser = study_parser(__doc__, LIMIT)
    parser.add_argument("--further", type=Path, help="folder of more models called FAMILY-SET-seedN")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page goes")
    options = parser.parse_args(arguments)
    # Where models and data lie differs from machine to machine and is no part of the result.
    given = ["--further=DIR"] * (options.further is not None) + [f"--limit={options.limit}"] * (options.limit != LIMIT)
    given += ["--zoo=DIR"] * (options.zoo != zoo_root())
    page, figures = write_page(scored(options), shlex.join(["python", "benchmarks/study_runs.py", *given]))
    write_json(options.docs / "study_runs.json", figures)
    write_atomic(options.docs / "study_runs.md", page.encode())
    print(page)


def scored(options: argparse.Namespace) -> list[Run]:
    """Return every run of the models that have several."""
    settings = Settings(options.zoo, options.work, options.data_root, options.limit)
    context = grid_context(settings, "Training runs beside each other.", DETECTORS, COLOUR)
    runs = []
    for place in sorted(context.cases, key=lambda place: FAMILIES.index(place.family)):
        further = [
            found.parent
            for folder in (options.zoo, options.further)
            if folder is not None
            for found in folder.glob(f"{place.model}-seed*/model.json")
        ]
        others = tuple(name for name in place.out_dists if (place.in_dist, name) in (*DEVELOPMENT, *SEEN))
        for folder in [options.zoo / place.model, *sorted(further)] if further and others else ():
            target, card = load_target(folder), read_head(folder).card
            request = ScoreRequest(
                name=folder.name,
                target=target,
                in_dist=context.in_dist(place, target),
                out_dists=tuple(context.batches(name, target) for name in others),
                detectors=DETECTORS,
                group_sizes=SIZES,
            )
            cases = tuple(Case(place.family, without_splits(pair)) for pair in score(context, request))
            runs.append(Run(place.model, card.seed, dict(card.bits_per_dim), cases))
    if not runs:
        raise DataError("no model was trained more than once; give further runs as --further DIR")
    return runs


def write_page(runs: Sequence[Run], command: str) -> tuple[str, dict[str, Any]]:
    """Return the page and its figures."""
    figures: dict[str, Any] = {"levels": [], "differences": [], "cells": list(_cells(runs))}
    first = runs[0].cases[0].pair
    head = HEAD.format(
        command=command,
        models="\n".join(f"- {line}" for line in _models(runs)),
        replicates=first.bootstrap.replicates,
        cells=len(_places(runs, SIZES[0])),
    )
    others = [name for name in DETECTORS if name != DEFAULT_DETECTOR]
    parts = [head]
    for size in SIZES:
        levels = {name: _level(name) for name in DETECTORS}
        parts.append(_table(f"AUROC, B = {size}", "detector", runs, size, levels, figures["levels"]))
        gains = {name: _gain(name) for name in others}
        parts.append(
            _table(
                f"`{DEFAULT_DETECTOR}` minus another, B = {size}", "minus", runs, size, gains, figures["differences"]
            )
        )
    parts += [_meaning(runs), _singles(runs)]
    return "\n".join(parts), figures


def _level(detector: str) -> Figure:
    def figure(case: Case) -> Values:
        pair = case.pair
        return np.concatenate([[pair.estimates[detector]["auroc"]], pair.replicates[detector]["auroc"]])

    return figure


def _gain(other: str) -> Figure:
    return lambda case: _level(DEFAULT_DETECTOR)(case) - _level(other)(case)


def _places(runs: Sequence[Run], size: int) -> list[tuple[str, str]]:
    """Return model and OOD set of every case."""
    found = ((run.model, case.sets[1]) for run in runs for case in run.cases if case.pair.group_size == size)
    return list(dict.fromkeys(found))


def _by_run(runs: Sequence[Run], model: str, out_dist: str, size: int, figure: Figure) -> Values:
    """Return a figure of each run of a model on a pair, (runs, 1 + R)."""
    return np.stack(
        [
            figure(case)
            for run in runs
            if run.model == model
            for case in run.cases
            if (case.sets[1], case.pair.group_size) == (out_dist, size)
        ]
    )


def _spread(runs: Sequence[Run], size: int, figure: Figure) -> dict[str, float]:
    """Return the mean of a figure, and what trainings and samples move: of a single case, and of the mean."""
    found = {place: _by_run(runs, *place, size, figure) for place in _places(runs, size)}
    # the pairs of one model have their training in common, the models have not
    shares = Counter(model for model, _ in found)
    parts = [shares[model] ** 2 * variance for model, variance in _model_variances(runs, size, figure).items()]
    return {
        "mean": float(np.mean([values[:, 0].mean() for values in found.values()])),
        "training": _root_mean([values[:, 0].var(ddof=1) for values in found.values()]),
        "samples": _root_mean([values[0, 1:].var() for values in found.values()]),
        "training_of_mean": float(np.sqrt(sum(parts)) / len(found)),
        "samples_of_mean": float(np.mean([values[0, 1:] for values in found.values()], axis=0).std()),
    }


def _model_variances(runs: Sequence[Run], size: int, figure: Figure) -> dict[str, float]:
    """Return, by model, the variance between trainings of a figure's mean over the model's pairs."""
    means: dict[str, list[Values]] = {}
    for model, out_dist in _places(runs, size):
        means.setdefault(model, []).append(_by_run(runs, model, out_dist, size, figure)[:, 0])
    return {model: float(np.mean(values, axis=0).var(ddof=1)) for model, values in means.items()}


def _root_mean(variances: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(variances)))


def _table(
    title: str, column: str, runs: Sequence[Run], size: int, wanted: dict[str, Figure], kept: list[dict[str, Any]]
) -> str:
    lines = []
    for name, figure in wanted.items():
        spread = _spread(runs, size, figure)
        kept.append({"group_size": size, column: name, **{k: round(v, 4) for k, v in spread.items()}})
        mean, *rest = spread.values()
        sign = "" if column == "detector" else "+"
        lines.append(f"| {name} | {mean:{sign}.3f} | {' | '.join(f'{v:.3f}' for v in rest)} |")
    return (
        f"## {title}\n\n"
        f"| {column} | mean | one pair: training | one pair: samples | the mean: training | the mean: samples |\n"
        "| --- | :-: | :-: | :-: | :-: | :-: |\n" + "\n".join(lines) + "\n"
    )


def _models(runs: Sequence[Run]) -> Iterator[str]:
    """Say of every model with which seeds it was trained, and how well."""
    for model in dict.fromkeys(run.model for run in runs):
        mine = [run for run in runs if run.model == model]
        seeds = ", ".join(str(run.seed) for run in mine)
        bits = ", ".join(f"{run.bits_per_dim['validation']:.3f}" for run in mine)
        sets = ", ".join(dict.fromkeys(case.sets[1] for run in mine for case in run.cases))
        pair = mine[0].cases[0].pair
        yield (
            f"`{model}`, seeds {seeds} (validation bits per dimension {bits}), against {sets}: {pair.n_in:,} test and "
            f"{pair.n_out:,} OOD samples"
        )


def _meaning(runs: Sequence[Run]) -> str:
    """Say how far another training of its models would move the study's headline."""
    moved = {
        size: [
            _root_mean([*_model_variances(runs, size, figure).values()]) / HEADLINE_MODELS**0.5
            for figure in (_level(DEFAULT_DETECTOR), _gain(PAPER))
        ]
        for size in SIZES
    }
    said = "; ".join(
        f"at B = {size} `{DEFAULT_DETECTOR}` by {level:.3f}, and `{DEFAULT_DETECTOR}` minus `{PAPER}` by {gain:.3f}"
        for size, (level, gain) in moved.items()
    )
    return (
        "## What that means for the study\n\n"
        f"Its headline is a mean over {HEADLINE_MODELS} models with one training each. If their means over pairs vary "
        f"as those of the {len({run.model for run in runs})} models here, another training of all would move it, as a "
        f"standard deviation: {said}. That is not in the intervals of [its page](study.md).\n"
    )


def _singles(runs: Sequence[Run]) -> str:
    """Return every run's AUROC of the default and of the paper's score."""
    lines = []
    for size in SIZES:
        for model, out_dist in _places(runs, size):
            cells = []
            for figure, spec in ((_level(DEFAULT_DETECTOR), ".3f"), (_level(PAPER), ".3f"), (_gain(PAPER), "+.3f")):
                values = _by_run(runs, model, out_dist, size, figure)[:, 0]
                cells.append(", ".join(f"{v:{spec}}" for v in values))
            lines.append(f"| {model} → {out_dist} | {size} | {' | '.join(cells)} |")
    return (
        "## Every run\n\nIn the order of the seeds above.\n\n"
        f"| model and OOD set | B | {DEFAULT_DETECTOR} | {PAPER} | difference |\n| --- | :-: | --- | --- | --- |\n"
        + "\n".join(lines)
        + "\n"
    )


def _cells(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Yield every single AUROC as JSON values."""
    for run in runs:
        for case in run.cases:
            auroc = {name: round(float(_level(name)(case)[0]), 4) for name in DETECTORS}
            yield {
                "model": run.model,
                "seed": run.seed,
                "out_dist": case.sets[1],
                "group_size": case.pair.group_size,
                "auroc": auroc,
            }


if __name__ == "__main__":
    main()
