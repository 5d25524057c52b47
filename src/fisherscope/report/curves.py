"""Curves over a quantity that doubles: one line a detector and kind, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fisherscope.core.errors import DataError
from fisherscope.evaluation import Interval
from fisherscope.report.theme import Style, detector_styles, theme

_SIZE: Final = (4.6, 3.1)
_ROWS: Final = 2
_ROW_HEIGHT: Final = 0.17
"""Rows of the legend that the size has room for, and the inches that every further one takes."""
_LONGEST: Final = 30
"""Characters of a label of which two fit beside each other."""
# Light enough to tell a second or third kind of line of one detector from the first, dark enough for print.
_ALPHAS: Final = (1.0, 0.6, 0.45)
_MARKERS: Final = ("o", "s", "^")


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        detector: whose; gives the colour.
        kind: what else tells it from other lines of the detector; gives dash pattern and marker.
        x: positions, above 0.
        y: figures with their intervals; an interval without extent is drawn as a line alone.
    """

    detector: str
    kind: str
    x: Sequence[float]
    y: Sequence[Interval]


def curve_figure(curves: Sequence[Curve], x_label: str, y_label: str) -> Figure:
    """Draw curves over a logarithmic axis, the kinds told apart by dash pattern, marker and lightness.

    The figure grows with the legend, so that the axes keep their size.

    Raises:
        DataError: there is no curve.
    """
    if not curves:
        raise DataError("there is no curve to draw; give at least one")
    detectors = detector_styles(tuple(dict.fromkeys(curve.detector for curve in curves)))
    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    columns = 2 if len(curves) > 1 and all(len(_label(curve)) <= _LONGEST for curve in curves) else 1
    further = max(0, math.ceil(len(curves) / columns) - _ROWS)
    with theme():
        figure = Figure(figsize=(_SIZE[0], _SIZE[1] + further * _ROW_HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            _draw(axes, curve, detectors[curve.detector], kinds.index(curve.kind))
        axes.set_xscale("log", base=2)
        ticks = sorted({x for curve in curves for x in curve.x})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        figure.legend(loc="outside upper center", ncols=columns)
    return figure


def _label(curve: Curve) -> str:
    return f"{curve.detector}, {curve.kind}" if curve.kind else curve.detector


def _draw(axes: Axes, curve: Curve, style: Style, kind: int) -> None:
    alpha, marker = _ALPHAS[min(kind, len(_ALPHAS) - 1)], _MARKERS[min(kind, len(_MARKERS) - 1)]
    means = [y.estimate for y in curve.y]
    face = style.color if kind == 0 else "white"
    axes.plot(
        curve.x,
        means,
        color=style.color,
        linestyle=style.dash if kind == 0 else (0.0, (1.2, 1.2)),
        marker=marker,
        markersize=4,
        markerfacecolor=face,
        alpha=alpha,
        label=_label(curve),
    )
    if any(y.high > y.low for y in curve.y):
        axes.fill_between(
            curve.x, [y.low for y in curve.y], [y.high for y in curve.y], color=style.color, alpha=0.15, linewidth=0
        )
