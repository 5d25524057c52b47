"""Tables and figures of the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from fisherscope.detectors import DEFAULT_DETECTOR
from fisherscope.evaluation import Interval
from fisherscope.pipeline.reproduce.grouped import Group
from fisherscope.report.dots import dot_figure
from fisherscope.report.tables import LOWER_IS_BETTER, METRIC_LABELS, Column
from fisherscope.report.text_table import TextCell, TextTable
from fisherscope.report.theme import detector_styles

SHOWN: Final = ("auroc", "aupr", "fpr95")
"""Metrics of the leaderboard."""


@dataclass(frozen=True)
class Board:
    """Tables and figures with their captions, by file name.

    Attributes:
        tables: those of means and, called ``...-pairs``, those of every pair.
        figures: the mean AUROC of every detector.
        captions: of both.
    """

    tables: Mapping[str, TextTable]
    figures: Mapping[str, Figure]
    captions: Mapping[str, str]


def make_board(groups: Sequence[Group], lines: Sequence[dict[str, Any]], few: str) -> Board:
    """Return the board of some groups.

    Args:
        groups: of the detectors of one pass.
        lines: what is said of each detector, those of many passes too, see the runner.
        few: a sentence about the detectors of many passes.
    """
    tables: dict[str, TextTable] = {}
    captions: dict[str, str] = {}
    for group in groups:
        own = [line for line in lines if all(line[k] == v for k, v in group.place.items())]
        where = f"{group.grid} sets, {group.label}, B = {group.group_size}"
        stem = f"{group.grid}-{group.label.replace(', T = ', '-t')}-b{group.group_size}"
        tables[stem] = _summary_table(own)
        captions[stem] = (
            f"Means over pairs of {where}, with 95 % bootstrap intervals; the difference is to the paper's method on "
            f"the same samples. {few}"
        )
        for metric in SHOWN:
            tables[f"{stem}-{metric}-pairs"] = _pairs_table(group, metric)
            captions[f"{stem}-{metric}-pairs"] = f"{METRIC_LABELS[metric]} on every pair of {where}."
    figures = {}
    for grid, size in dict.fromkeys((line["grid"], line["group_size"]) for line in lines):
        stem = f"{grid}-b{size}"
        figures[stem] = _figure([line for line in lines if (line["grid"], line["group_size"]) == (grid, size)])
        captions[stem] = (
            f"Mean AUROC over pairs of {grid} sets, B = {size}, with 95 % bootstrap intervals; detectors in the order "
            "of their mean over the kinds of models that they serve. Those that only some models of a kind serve and "
            "those of many passes are in the tables alone."
        )
    return Board(tables, figures, captions)


def _figure(lines: Sequence[dict[str, Any]]) -> Figure:
    """Draw the mean AUROC of every detector of one pass under every kind of model."""
    style = {"AUROC": detector_styles((DEFAULT_DETECTOR,))[DEFAULT_DETECTOR]}
    panels: dict[str, dict[str, dict[str, Interval]]] = {}
    means: dict[str, list[float]] = {}
    for line in filter(is_ranked, lines):
        panels.setdefault(line["model"], {})[line["detector"]] = {"AUROC": Interval(**line["auroc"])}
        means.setdefault(line["detector"], []).append(line["auroc"]["estimate"])
    order = sorted(means, key=lambda detector: -float(np.mean(means[detector])))
    return dot_figure(panels, order, style, "mean AUROC")


def _summary_table(lines: Sequence[dict[str, Any]]) -> TextTable:
    """Return the table of one grid, family and group size, best first; what has no rank comes last."""
    ordered = sorted(lines, key=lambda line: (line["many_pass"], -line["auroc"]["estimate"]))
    full = [line for line in ordered if is_ranked(line)]
    others = [line for line in ordered if not is_ranked(line)]
    best = {m: _best([line[m]["estimate"] for line in full], m) for m in SHOWN}
    rows = [(line["detector"], _line_cells(line, best)) for line in full]
    for line in others:
        images = f" ({line['limit']} images)" if line["many_pass"] else ""
        rows.append((f"{line['detector']}{images}", _line_cells(line, {})))
    heads = [(METRIC_LABELS[m],) for m in SHOWN]
    heads += [("AUROC minus the paper's",), ("mean rank",), ("pairs",)]
    return TextTable("detector", heads, rows, rules=(len(full),) if others else ())


def is_ranked(line: Mapping[str, Any]) -> bool:
    """Whether a line is a mean over all pairs at full size, as the others that it is compared with."""
    return bool(line["every_pair"] and not line["many_pass"])


def _best(figures: Sequence[float], metric: str) -> float:
    return round((min if metric in LOWER_IS_BETTER else max)(figures), 3)


def _line_cells(line: Mapping[str, Any], best: Mapping[str, float]) -> list[TextCell]:
    cells = [_cell(Interval(**line[m]), best.get(m)) for m in SHOWN]
    difference = Interval(**line["difference"])
    rank = f"{line['rank']:.1f}" if best else "-"
    return [
        *cells,
        TextCell(f"{difference.estimate:+.3f}", difference.ends("+.3f")),
        TextCell(rank),
        TextCell(str(line["pairs"])),
    ]


def _cell(figure: Interval, best: float | None) -> TextCell:
    return TextCell(f"{figure.estimate:.3f}", figure.ends(".3f"), round(figure.estimate, 3) == best)


def _pairs_table(group: Group, metric: str) -> TextTable:
    """Return one metric of every detector on every pair."""
    best = [_best([f[metric] for f in pair.estimates.values()], metric) for pair in group.pairs]
    rows = [
        (
            detector,
            [
                _cell(pair.interval(detector, metric), b) if detector in pair.estimates else TextCell("-")
                for pair, b in zip(group.pairs, best, strict=True)
            ],
        )
        for detector in group.detectors
    ]
    heads = [(Column(p.in_dist, p.out_dist, p.group_size).pair,) for p in group.pairs]
    return TextTable("detector", heads, rows)
