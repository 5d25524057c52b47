"""Samples as points: two layers against each other, two representations against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fisherscope.report.histograms import common_histogram, wrap_name
from fisherscope.report.theme import Style, set_label, set_styles, theme

Points = Mapping[str, NDArray[Any]]

_MARKERS: Final = "o^sDvPX<"


def _scatter_sets(axes: Axes, points: Points, in_dist: str, styles: Mapping[str, Style]) -> None:
    """Draw points (n, 2) of every set, a marker each, those of the in-distribution set filled."""
    for marker, (name, style) in zip(_MARKERS * len(styles), styles.items(), strict=False):
        x, y = np.asarray(points[name]).T
        shape: dict[str, Any] = {"marker": marker, "s": 12, "alpha": 0.55, "linewidths": 0.6, "color": style.color}
        label = set_label(name)
        if name == in_dist:
            axes.scatter(x, y, label=f"{label} (in-distribution)", **shape)
        else:
            axes.scatter(x, y, label=label, facecolors="none", **shape)


def layer_scatter(values: Mapping[str, NDArray[Any]], in_dist: str, layers: tuple[str, str], unit: str) -> Figure:
    """Draw log f of two layers against each other, with the histogram of each along its axis.

    Args:
        values: log f of both layers by data set, (n, 2) each.
        in_dist: the in-distribution set, whose histograms are filled.
        layers: their names.
        unit: of both axes.
    """
    styles = set_styles((in_dist, *(name for name in values if name != in_dist)))
    with theme():
        figure = Figure(figsize=(4.6, 4.4), layout="constrained")
        grid = figure.subplots(
            2, 2, sharex="col", sharey="row", gridspec_kw={"width_ratios": (3.4, 1), "height_ratios": (1, 3.4)}
        )
        middle = grid[1, 0]
        _scatter_sets(middle, values, in_dist, styles)
        for column, axes in ((0, grid[0, 0]), (1, grid[1, 1])):
            _marginal(axes, {n: v[:, column] for n, v in values.items()}, in_dist, styles, upright=column == 0)
        grid[0, 1].set_axis_off()
        middle.set_xlabel(f"log f$_l$ ({unit}) of\n{wrap_name(layers[0], 44)}")
        middle.set_ylabel(f"log f$_l$ ({unit}) of\n{wrap_name(layers[1], 44)}")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def _marginal(
    axes: Axes, values: Mapping[str, NDArray[Any]], in_dist: str, styles: Mapping[str, Style], *, upright: bool
) -> None:
    edges, shares = common_histogram(values, in_dist)
    orientation: Any = "vertical" if upright else "horizontal"
    for name, style in styles.items():
        if name == in_dist:
            axes.stairs(shares[name], edges, fill=True, color=style.color, alpha=0.3, orientation=orientation)
        axes.stairs(shares[name], edges, color=style.color, linestyle=style.dash, orientation=orientation)
    (axes.set_ylabel if upright else axes.set_xlabel)("% per bin")


def representation_figure(bits: Points, scores: Points, in_dist: str) -> Figure:
    """Draw likelihood and gradient score of the same images in RGB and HSV; what does not move lies on the line.

    Args:
        bits: bits/dim in RGB and in HSV by data set, (n, 2) each.
        scores: the gradient score from either, likewise.
        in_dist: the in-distribution set.
    """
    styles = set_styles((in_dist, *(name for name in bits if name != in_dist)))
    with theme():
        figure = Figure(figsize=(6.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, points, what in ((left, bits, "bits per dimension"), (right, scores, "gradient score")):
            _scatter_sets(axes, points, in_dist, styles)
            ends = np.array([np.min([p.min() for p in points.values()]), np.max([p.max() for p in points.values()])])
            axes.plot(ends, ends, color="#777777", linewidth=0.8, zorder=0)
            axes.set(xlabel=f"{what} in RGB", ylabel=f"{what} in HSV")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
