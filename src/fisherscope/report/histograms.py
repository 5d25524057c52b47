"""Histograms of several sets over common bins, alone or as panels of one figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import norm

from fisherscope.core.errors import DataError
from fisherscope.report.theme import Style, set_label, set_styles, theme

Values = Mapping[str, NDArray[Any]]
Edges = NDArray[np.float64]

_BINS: Final = (12, 90)


@dataclass(frozen=True)
class HistogramPanel:
    """One panel.

    Attributes:
        title: said above it, such as the model.
        values: by data set, shape (n,) each.
        in_dist: the in-distribution set, which is drawn filled, or None where there is none.
        normal: mean and standard deviation of a normal to draw, or None.
    """

    title: str
    values: Values
    in_dist: str | None
    normal: tuple[float, float] | None = None


def common_histogram(values: Values, in_dist: str | None) -> tuple[Edges, dict[str, NDArray[np.float64]]]:
    """Return edges of bins that all sets share, (m + 1,), and the percentage of each set in each bin, (m,).

    Bins have the width that Freedman and Diaconis (1981) advise for the in-distribution set, or without one for the
    first set, but there are 12 to 90.
    """
    if in_dist is not None and in_dist not in values:
        raise DataError(f"the in-distribution set '{in_dist}' is not among {sorted(values)}")
    pooled = np.concatenate([np.asarray(v, dtype=np.float64) for v in values.values()])
    reference = np.asarray(values[next(iter(values)) if in_dist is None else in_dist], dtype=np.float64)
    width = 2 * float(np.subtract(*np.quantile(reference, [0.75, 0.25]))) / len(reference) ** (1 / 3)
    count = int(np.clip(np.ptp(pooled) / width, *_BINS)) if width > 0 else _BINS[0]
    edges = np.histogram_bin_edges(pooled, bins=count)
    return edges, {name: 100 * np.histogram(v, edges)[0] / len(v) for name, v in values.items()}


def draw_histograms(
    axes: Axes, values: Values, in_dist: str | None, styles: Mapping[str, Style] | None = None
) -> Edges:
    """Draw :func:`common_histogram`, the in-distribution set filled, and return the edges."""
    edges, shares = common_histogram(values, in_dist)
    names = tuple(sorted(values, key=lambda name: name != in_dist))
    styles = styles or set_styles(names)
    for name in names:
        style, label = styles[name], set_label(name)
        if name == in_dist:
            axes.stairs(shares[name], edges, fill=True, color=style.color, alpha=0.3)
            label += " (in-distribution)"
        axes.stairs(shares[name], edges, color=style.color, linestyle=style.dash, linewidth=1.6, label=label)
    axes.set_ylabel("% of set per bin")
    axes.set_xlim(edges[0], edges[-1])
    return edges


def draw_normal(axes: Axes, edges: Edges, mean: float, deviation: float) -> None:
    """Draw a normal over a histogram in percent per bin."""
    grid = np.linspace(edges[0], edges[-1], 300)
    density = 100 * (edges[1] - edges[0]) * norm.pdf(grid, mean, deviation)
    axes.plot(grid, density, color="black", linewidth=1.1, label="fitted normal")


def histogram_panels(panels: Sequence[HistogramPanel], label: str, columns: int = 2) -> Figure:
    """Draw panels side by side, each with its own scale; filled is the in-distribution set of each.

    Args:
        panels: what to draw.
        label: of all horizontal axes, with its unit.
        columns: panels in a row, at most.
    """
    if not panels:
        raise DataError("there are no panels to draw")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    styles = set_styles(tuple(dict.fromkeys(name for panel in panels for name in panel.values)))
    width = {1: 4.6, 2: 3.2}.get(columns, 6.6 / columns)
    with theme():
        figure = Figure(figsize=(width * columns, (0.62 * width + 0.2) * rows + 0.7), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, styles, wrap=int(12 * width))
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        figure.supxlabel(label, fontsize=9)
        figure.supylabel("% of set per bin", fontsize=9)
        _shared_legend(figure, list(grid.flat[: len(panels)]), columns=2 if columns < 3 else 4)
    return figure


def _draw_panel(axes: Axes, panel: HistogramPanel, styles: Mapping[str, Style], wrap: int) -> None:
    edges = draw_histograms(axes, panel.values, panel.in_dist, styles)
    if panel.normal is not None:
        draw_normal(axes, edges, *panel.normal)
    axes.set_ylabel("")
    axes.set_title(wrap_name(panel.title, wrap), loc="left", fontsize=8)
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=5)


def wrap_name(name: str, width: int) -> str:
    """Return a name in lines of at most ``width`` characters where its words and dotted parts allow that."""
    lines = textwrap.wrap(name.replace(".", ". "), width, break_long_words=False)
    return "\n".join(lines).replace(". ", ".")


def _shared_legend(figure: Figure, panels: Sequence[Axes], columns: int) -> None:
    """One legend for all panels: a set is in-distribution in one and not in another."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            plain = label if len(panels) == 1 else label.removesuffix(" (in-distribution)")
            handles.setdefault(plain, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
