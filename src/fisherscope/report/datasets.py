"""The levels of data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fisherscope.report.theme import WIDE, set_styles, theme

LEVEL_EDGES: Final = np.arange(0, 257, 8)
"""Edges of the bins of :func:`level_histogram`."""


def level_histogram(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the percentage of the values of images (any shape) in each of 32 bins of 8 levels."""
    shares: NDArray[np.float64] = 100 * np.bincount(images.ravel() // 8, minlength=32) / images.size
    return shares


def level_figure(shares: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Draw :func:`level_histogram` of several sets; the axis of shares is logarithmic, since backgrounds dominate."""
    styles = set_styles(tuple(shares))
    with theme():
        figure = Figure(figsize=WIDE, layout="constrained")
        axes = figure.add_subplot()
        for name, style in styles.items():
            axes.stairs(shares[name], LEVEL_EDGES, color=style.color, linestyle=style.dash, linewidth=1.6, label=name)
        axes.set(xlabel="level of a pixel value", ylabel="% of all values per bin of 8", yscale="log", xlim=(0, 256))
        axes.set_xticks(np.arange(0, 257, 64))
        figure.legend(loc="outside upper center", ncols=2)
    return figure
