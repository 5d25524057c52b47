"""AUROC of some detectors on every pair of sets: tables, means over the pairs, paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from fisherscope.config import Strict
from fisherscope.core.errors import SettingError
from fisherscope.evaluation import Interval, ResampledPair, average
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.grouped import Group, comparisons, score_cases
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.dots import dot_figure
from fisherscope.report.tables import Column
from fisherscope.report.text_table import TextCell, TextTable
from fisherscope.report.theme import detector_styles

_MEAN: Final = "mean of pairs"
_QUARTILES: Final = {"25 %": 0.25, "median": 0.5, "75 %": 0.75}


def run(context: Context, options: Strict) -> Outcome:
    """Score the experiment's detectors on every pair; the first one is compared with each other one."""
    detectors = context.experiment.detectors
    if not detectors:
        raise SettingError("the experiment names no detectors; give --detectors NAME,NAME")
    groups = score_cases(context)
    by_table = _by_table(groups)
    tables = {stem: _table(chosen) for stem, chosen in by_table.items()}
    results = {
        "records": [record for group in groups for record in group.records()],
        "means": [mean for group in groups for mean in _means(group)],
        "comparisons": [c for group in groups for c in comparisons(group, detectors[0])],
    }
    note = _note(results["comparisons"])
    captions = {stem: _caption(stem) for stem in by_table}
    figures = {stem: _figure(chosen) for stem, chosen in by_table.items()}
    return Outcome(results, note, figures=figures, tables=tables, captions=captions)


def _by_table(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups that share a table and a figure, by its name."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(f"{group.grid}-b{group.group_size}", []).append(group)
    return found


def _figure(groups: Sequence[Group]) -> Figure:
    detectors = tuple(dict.fromkeys(d for g in groups for d in g.detectors))
    lines = list(dict.fromkeys(_pair(p) for g in groups for p in g.pairs))
    panels = {
        g.label: {
            **{_pair(p): {d: p.interval(d) for d in p.estimates} for p in g.pairs},
            _MEAN: {d: average(g.having(d), d) for d in g.detectors},
        }
        for g in groups
    }
    return dot_figure(panels, [*lines, _MEAN], detector_styles(detectors), "AUROC", rules=(len(lines),))


def _pair(pair: ResampledPair) -> str:
    return Column(pair.in_dist, pair.out_dist, pair.group_size).pair


def _table(groups: Sequence[Group]) -> TextTable:
    """Return the table of one grid and group size: a row a pair, a column a kind of model and detector."""
    lines = list(dict.fromkeys(_pair(p) for g in groups for p in g.pairs))
    rows = [(line, [cell for g in groups for cell in _pair_cells(g, line)]) for line in lines]
    summary = [(_MEAN, [cell for g in groups for cell in _mean_cells(g)])]
    for name, share in _QUARTILES.items():
        summary.append((name, [cell for g in groups for cell in _quantile_cells(g, share)]))
    heads = [(g.label, detector) for g in groups for detector in g.detectors]
    return TextTable("pair", heads, rows + summary, rules=(len(rows),))


def _pair_cells(group: Group, line: str) -> list[TextCell]:
    found = [p for p in group.pairs if _pair(p) == line]
    figures = {d: asdict(found[0].interval(d)) for d in group.detectors if found and d in found[0].estimates}
    return best_in_bold([figures.get(detector) for detector in group.detectors])


def _mean_cells(group: Group) -> list[TextCell]:
    return _compared(group, [asdict(average(group.having(d), d)) for d in group.detectors])


def _quantile_cells(group: Group, share: float) -> list[TextCell]:
    return _compared(group, [{"estimate": float(np.quantile(group.values(d), share))} for d in group.detectors])


def _compared(group: Group, figures: Sequence[Mapping[str, float]]) -> list[TextCell]:
    """Return cells of one figure a detector, the highest bold of those that are over every pair."""
    ranked = [figure if group.has_all(d) else None for d, figure in zip(group.detectors, figures, strict=True)]
    best = best_in_bold(ranked)
    return [_cell(f, bold=False) if r is None else b for f, r, b in zip(figures, ranked, best, strict=True)]


def best_in_bold(figures: Sequence[Mapping[str, float] | None]) -> list[TextCell]:
    """Return cells of figures, the highest bold.

    Args:
        figures: ``estimate`` and, where there is an interval, ``low`` and ``high``; None for an empty cell.
    """
    best = max((round(f["estimate"], 3) for f in figures if f is not None), default=0.0)
    return [TextCell("-") if f is None else _cell(f, bold=round(f["estimate"], 3) == best) for f in figures]


def _cell(figure: Mapping[str, float], *, bold: bool) -> TextCell:
    small = Interval(**figure).ends(".3f") if "low" in figure else ""
    return TextCell(f"{figure['estimate']:.3f}", small, bold)


def _means(group: Group) -> Iterable[dict[str, Any]]:
    for detector in group.detectors:
        yield {
            **group.place,
            "detector": detector,
            "pairs": len(group.having(detector)),
            "mean": asdict(average(group.having(detector), detector)),
            "quartiles": [float(np.quantile(group.values(detector), share)) for share in _QUARTILES.values()],
        }


def _caption(stem: str) -> str:
    grid, _, size = stem.rpartition("-b")
    return (
        f"AUROC, {grid} sets, B = {size}. 95 % bootstrap intervals of the draw of the test samples; the best of the "
        "detectors of a model is bold. Rows are in-distribution → out-of-distribution."
    )


def _note(found: Sequence[Mapping[str, Any]]) -> str:
    """Say where the first detector is ahead of the others in the mean, and on how many pairs clearly so."""
    means = [c for c in found if c["pair"] is None]
    return " ".join([*_verdicts(means), *(_sentence(mean, found) for mean in means)])


def _verdicts(means: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for a, b in dict.fromkeys((mean["a"], mean["b"]) for mean in means):
        where: dict[str, list[str]] = {"clearly ahead of": [], "clearly behind": [], "not clearly apart from": []}
        for mean in (m for m in means if (m["a"], m["b"]) == (a, b)):
            low, high = mean["difference"]["low"], mean["difference"]["high"]
            verdict = "clearly ahead of" if low > 0 else "clearly behind" if high < 0 else "not clearly apart from"
            where[verdict].append(f"{mean['model']} on {mean['grid']} sets at B = {mean['group_size']}")
        for verdict, places in where.items():
            if places:
                yield f"In the mean {a} is {verdict} {b} for {', '.join(places)}."


def _sentence(mean: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> str:
    pairs = [c for c in found if c["pair"] is not None and _same(c, mean)]
    ahead = sum(c["difference"]["low"] > 0 for c in pairs)
    behind = sum(c["difference"]["high"] < 0 for c in pairs)
    where = f"{mean['model']}, {mean['grid']} sets, B = {mean['group_size']}"
    difference = Interval(**mean["difference"])
    return (
        f"{where}: {mean['a']} {mean['auroc_a']:.3f}, {mean['b']} {mean['auroc_b']:.3f} (mean of {len(pairs)}), "
        f"difference {difference:+.3f}; by pair clearly ahead on {ahead}, clearly behind on {behind}."
    )


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(a[k] == b[k] for k in ("grid", "model", "group_size", "a", "b"))
