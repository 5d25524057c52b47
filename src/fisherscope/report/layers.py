"""Figures about all layers of a model together: their standardised deviations and their correlation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import norm

from fisherscope.report.histograms import Edges
from fisherscope.report.theme import WIDE, set_label, set_styles, theme

PULL_EDGES: Final[Edges] = np.linspace(-6, 6, 49)
"""Bins of :func:`pull_figure`; what lies beyond counts in the outermost ones."""

LEAST_PAIRS: Final = 5
"""Distances with fewer pairs of layers are not drawn."""

MOST_BANDS: Final = 2
"""With more curves the quantiles around them are not drawn."""


@dataclass(frozen=True)
class CorrelationCurve:
    """Correlations of pairs of layers by the distance of the two; all of shape (m,).

    Attributes:
        distance: number of parameter tensors from one to the other, rising.
        pairs: number of pairs that are so far apart.
        mean: of their correlations.
        low: their 10 % quantile.
        high: their 90 % quantile.
    """

    distance: NDArray[np.intp]
    pairs: NDArray[np.intp]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def pull_histogram(pulls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the percentage of standardised deviations (n, L) in each bin of :data:`PULL_EDGES`."""
    inside = np.clip(pulls, PULL_EDGES[0], PULL_EDGES[-1])
    shares: NDArray[np.float64] = 100 * np.histogram(inside, PULL_EDGES)[0] / inside.size
    return shares


def pull_figure(
    pulls: Mapping[str, NDArray[np.float64]], in_dist: str, positions: NDArray[np.intp], standard_error: float
) -> Figure:
    """Draw the layers' standardised deviations: pooled beside the standard normal, and their mean in each layer.

    Args:
        pulls: (log f_l - m_l) / d_l by data set, (n, L) each.
        in_dist: the in-distribution set.
        positions: numbers of the layers among the model's parameter tensors, (L,).
        standard_error: of a mean of the in-distribution set, if it is drawn as the fit part was; the band is two wide.
    """
    styles = set_styles((in_dist, *(name for name in pulls if name != in_dist)))
    with theme():
        figure = Figure(figsize=(6.6, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        right.axhspan(
            -2 * standard_error, 2 * standard_error, color="#dddddd", linewidth=0, label="± 2 standard errors"
        )
        for name, style in styles.items():
            label = set_label(name) + (" (in-distribution)" if name == in_dist else "")
            shares = pull_histogram(pulls[name])
            if name == in_dist:
                left.stairs(shares, PULL_EDGES, fill=True, color=style.color, alpha=0.3)
            left.stairs(shares, PULL_EDGES, color=style.color, linestyle=style.dash, linewidth=1.6, label=label)
            right.plot(positions, pulls[name].mean(0), color=style.color, linestyle=style.dash, linewidth=1.2)
        grid = np.linspace(PULL_EDGES[0], PULL_EDGES[-1], 300)
        density = 100 * (PULL_EDGES[1] - PULL_EDGES[0]) * norm.pdf(grid)
        left.plot(grid, density, color="black", linewidth=1.1, label="standard normal")
        left.set(xlabel="(log f$_l$ − m$_l$) / d$_l$ (standard deviations)", ylabel="% of layers and groups per bin")
        left.set_xlim(PULL_EDGES[0], PULL_EDGES[-1])
        right.set(xlabel="parameter tensor l, in the order of the model", ylabel="mean of (log f$_l$ − m$_l$) / d$_l$")
        figure.legend(loc="outside upper center", ncols=3)
    return figure


def correlation_figure(curves: Mapping[str, CorrelationCurve], standard_error: float) -> Figure:
    """Draw the correlation of layers against their distance.

    Args:
        curves: by in-distribution set of the model.
        standard_error: of one correlation of independent layers; the grey band is two wide.
    """
    styles = set_styles(tuple(curves))
    with theme():
        figure = Figure(figsize=WIDE, layout="constrained")
        axes = figure.add_subplot()
        axes.axhspan(
            -2 * standard_error,
            2 * standard_error,
            color="#dddddd",
            linewidth=0,
            label="± 2 standard errors of one pair",
        )
        for name, curve in curves.items():
            style, shown = styles[name], curve.pairs >= LEAST_PAIRS
            distance = curve.distance[shown]
            if len(curves) <= MOST_BANDS:
                axes.fill_between(distance, curve.low[shown], curve.high[shown], color=style.color, alpha=0.2, lw=0)
            axes.plot(
                distance,
                curve.mean[shown],
                color=style.color,
                linestyle=style.dash,
                label=f"{set_label(name)} model",
            )
        axes.set(xlabel="distance of two layers (parameter tensors)", ylabel="correlation of log f$_l$")
        figure.legend(loc="outside upper center", ncols=2)
    return figure
