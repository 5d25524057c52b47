"""AUROC of some detectors on every pair of sets: tables, means over the pairs, paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from fisherscope.core.errors import SettingError
from fisherscope.evaluation import (
    PairScores,
    Record,
    average_auroc,
    compare_averages,
    compare_detectors,
)
from fisherscope.pipeline.reproduce.context import Case, Context
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.tables import Column
from fisherscope.report.text_table import TextCell, TextTable

_QUARTILES = {"25 %": 0.25, "median": 0.5, "75 %": 0.75}


class Options(BaseModel):
    """Settings of this runner; it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Group:
    """Everything of one grid, one kind of model and one group size.

    Attributes:
        grid: name of the grid.
        label: the models' family and timestep.
        group_size: B.
        records: of every pair and detector.
        pairs: scores of every pair.
    """

    grid: str
    label: str
    group_size: int
    records: tuple[Record, ...]
    pairs: tuple[PairScores, ...]

    def record(self, column: Column, detector: str) -> Record | None:
        """Return the record of a pair, None where these models were not shown it."""
        wanted = (column.in_dist, column.out_dist, detector)
        return next((r for r in self.records if (r.in_dist, r.out_dist, r.detector) == wanted), None)


def run(context: Context, options: Options) -> Outcome:
    """Evaluate the experiment's detectors on every pair; the first one is compared with each other one."""
    detectors = context.experiment.detectors
    if not detectors:
        raise SettingError("the experiment names no detectors; give --detectors NAME,NAME")
    groups = group_cases(context)
    tables = dict(_tables(groups, detectors))
    results = {
        "records": [{"grid": g.grid, "model": g.label, **r.to_json()} for g in groups for r in g.records],
        "means": [mean for g in groups for mean in _means(g, detectors, context)],
        "comparisons": [c for g in groups for c in _comparisons(g, detectors, context)],
    }
    captions = {stem: _caption(stem) for stem in tables}
    return Outcome(results, _note(results, detectors), tables=tables, captions=captions)


def group_cases(context: Context, detectors: Sequence[str] | None = None) -> list[Group]:
    """Evaluate every case that has other sets, and sort the results by grid, kind of model and group size."""
    found: dict[tuple[str, str, int], list[tuple[Case, PairScores, list[Record]]]] = {}
    for case in (case for case in context.cases if case.out_dists):
        done = context.evaluate(case, detectors=detectors)
        for size, result in done.groups.items():
            for pair in result.pairs.values():
                records = [r for r in done.records if (r.out_dist, r.group_size) == (pair.out_dist, size)]
                found.setdefault((case.grid, case.label, size), []).append((case, pair, records))
    return [
        Group(grid, label, size, tuple(r for _, _, rs in rows for r in rs), tuple(pair for _, pair, _ in rows))
        for (grid, label, size), rows in found.items()
    ]


def _tables(groups: Sequence[Group], detectors: Sequence[str]) -> Iterable[tuple[str, TextTable]]:
    for grid, size in dict.fromkeys((g.grid, g.group_size) for g in groups):
        chosen = [g for g in groups if (g.grid, g.group_size) == (grid, size)]
        yield f"{grid}-b{size}", _table(chosen, detectors)


def _table(groups: Sequence[Group], detectors: Sequence[str]) -> TextTable:
    """Return the table of one grid and group size: a row a pair, a column a kind of model and detector."""
    columns = list(dict.fromkeys(Column(r.in_dist, r.out_dist, r.group_size) for g in groups for r in g.records))
    rows = [(c.pair, [cell for g in groups for cell in _pair_cells(g, c, detectors)]) for c in columns]
    values = {g.label: _values(g, detectors) for g in groups}
    summary = [("mean of pairs", [cell for v in values.values() for cell in _best_cells([np.mean(x) for x in v])])]
    summary += [
        (name, [cell for v in values.values() for cell in _best_cells([np.quantile(x, q) for x in v])])
        for name, q in _QUARTILES.items()
    ]
    heads = [(g.label, detector) for g in groups for detector in detectors]
    return TextTable("pair", heads, rows + summary, rules=(len(rows),))


def _pair_cells(group: Group, column: Column, detectors: Sequence[str]) -> list[TextCell]:
    records = [group.record(column, detector) for detector in detectors]
    figures = [r.auroc for r in records if r is not None]
    if not figures:
        return [TextCell("-") for _ in detectors]
    best = max(round(f, 3) for f in figures)
    return [
        TextCell("-")
        if r is None
        else TextCell(f"{r.auroc:.3f}", f"[{r.auroc_low:.3f}, {r.auroc_high:.3f}]", round(r.auroc, 3) == best)
        for r in records
    ]


def _values(group: Group, detectors: Sequence[str]) -> list[list[float]]:
    return [[r.auroc for r in group.records if r.detector == detector] for detector in detectors]


def _best_cells(figures: Sequence[Any]) -> list[TextCell]:
    best = max(round(float(f), 3) for f in figures)
    return [TextCell(f"{f:.3f}", bold=round(float(f), 3) == best) for f in figures]


def _means(group: Group, detectors: Sequence[str], context: Context) -> Iterable[dict[str, Any]]:
    settings = context.settings
    for detector, values in zip(detectors, _values(group, detectors), strict=True):
        mean = average_auroc(group.pairs, detector, seed=settings.seed, replicates=settings.replicates)
        yield {
            **_place(group),
            "detector": detector,
            "pairs": len(values),
            "mean": asdict(mean),
            "quartiles": [float(np.quantile(values, q)) for q in _QUARTILES.values()],
        }


def _place(group: Group) -> dict[str, Any]:
    return {"grid": group.grid, "model": group.label, "group_size": group.group_size}


def _comparisons(group: Group, detectors: Sequence[str], context: Context) -> Iterable[dict[str, Any]]:
    """Compare the first detector with every other one, in the mean and on every pair."""
    how = {"seed": context.settings.seed, "replicates": context.settings.replicates}
    first, *others = detectors
    for other in others:
        place = {**_place(group), "a": first, "b": other}
        yield {**place, "pair": None, **asdict(compare_averages(group.pairs, first, other, **how))}
        for pair in group.pairs:
            sets = [pair.in_dist, pair.out_dist]
            yield {**place, "pair": sets, **asdict(compare_detectors(pair, first, other, **how))}


def _caption(stem: str) -> str:
    grid, _, size = stem.rpartition("-b")
    return (
        f"AUROC, {grid} sets, B = {size}. 95 % bootstrap intervals of the draw of the test samples; the best of the "
        "detectors of a model is bold. Rows are in-distribution → out-of-distribution."
    )


def _note(results: Mapping[str, Any], detectors: Sequence[str]) -> str:
    """Say where the first detector is ahead of the others in the mean, and on how many pairs clearly so."""
    sentences = []
    for mean in (c for c in results["comparisons"] if c["pair"] is None):
        pairs = [c for c in results["comparisons"] if c["pair"] is not None and _same(c, mean)]
        ahead = sum(c["difference"]["low"] > 0 for c in pairs)
        behind = sum(c["difference"]["high"] < 0 for c in pairs)
        difference = "{estimate:+.3f} [{low:+.3f}, {high:+.3f}]".format_map(mean["difference"])
        sentences.append(
            f"{mean['model']}, {mean['grid']} sets, B = {mean['group_size']}: {mean['a']} {mean['auroc_a']:.3f}, "
            f"{mean['b']} {mean['auroc_b']:.3f} in the mean of {len(pairs)} pairs, difference {difference}; clearly "
            f"ahead on {ahead}, clearly behind on {behind}."
        )
    return " ".join(sentences)


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(a[k] == b[k] for k in ("grid", "model", "group_size", "a", "b"))
