"""Figures with intervals as dots: a panel a kind of model, a line a pair of sets or detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fisherscope.core.errors import DataError
from fisherscope.evaluation import Interval
from fisherscope.report.theme import Style, theme

Panel = Mapping[str, Mapping[str, Interval]]
"""Intervals by line and series."""

_MARKERS: Final = ("o", "D", "s", "^", "v")
_PANEL_WIDTH: Final = 1.85
_LEAST_WIDTH: Final = 1.05
_PAGE_WIDTH: Final = 6.9
_LINE_HEIGHT: Final = (0.11, 0.06)  # of a line, and more for each series


def dot_figure(
    panels: Mapping[str, Panel],
    lines: Sequence[str],
    series: Mapping[str, Style],
    x_label: str,
    *,
    chance: float | None = 0.5,
    rules: Sequence[int] = (),
) -> Figure:
    """Draw every line's figures with their intervals, panel beside panel.

    Args:
        panels: by title; a line or series that a panel lacks is left empty there.
        lines: names, from top to bottom.
        series: style by name; a single one needs no legend.
        x_label: of every panel.
        chance: position of a vertical line, the figure of a score that knows nothing.
        rules: numbers of the lines above which a horizontal line is drawn.

    Raises:
        DataError: nothing to draw.
    """
    if not panels or not lines:
        raise DataError(f"{len(panels)} panels of {len(lines)} lines cannot be drawn; give at least one of each")
    longest = max(len(line) for line in lines)
    names = 0.065 * longest + 0.3
    width = max(_LEAST_WIDTH, min(_PANEL_WIDTH, (_PAGE_WIDTH - names) / len(panels)))
    height = len(lines) * (_LINE_HEIGHT[0] + _LINE_HEIGHT[1] * len(series))
    size = (width * len(panels) + names, height + 1.1)
    with theme():
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, panel) in zip(grid, panels.items(), strict=True):
            _draw_panel(axes, panel, lines, series)
            axes.set_title(title, loc="left")
            axes.set_xlabel(x_label)
            if chance is not None:
                axes.axvline(chance, color="#999999", linewidth=0.8, zorder=0)
            for rule in rules:
                axes.axhline(rule - 0.5, color="#999999", linewidth=0.6, zorder=0)
        grid[0].set_yticks(range(len(lines)), lines)
        grid[0].set_ylim(len(lines) - 0.5, -0.5)
        if len(series) > 1:
            figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(3, len(series)))
    return figure


def _draw_panel(axes: Axes, panel: Panel, lines: Sequence[str], series: Mapping[str, Style]) -> None:
    step = 0.55 / len(series)
    for number, (name, style) in enumerate(series.items()):
        found = [(row, panel[line][name]) for row, line in enumerate(lines) if name in panel.get(line, {})]
        places = [row + (number - (len(series) - 1) / 2) * step for row, _ in found]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.hlines(places, [f.low for _, f in found], [f.high for _, f in found], color=style.color, linewidth=1.2)
        axes.plot(
            [f.estimate for _, f in found],
            places,
            marker,
            color=style.color,
            markersize=3.6,
            linestyle="",
            label=name,
            clip_on=False,  # a dot at 1 reaches over the frame
        )
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
