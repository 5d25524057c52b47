"""Figures of the Fisher information matrix: its blocks, and its diagonal against the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fisherscope.report.heatmap import LOWERS, RAISES
from fisherscope.report.theme import DASHED, DOTTED, SOLID, WIDE, Style, theme

Matrix = NDArray[np.float64]

KINDS: Final[Mapping[str, Style]] = {
    "diagonal": Style("#000000", SOLID),
    "same layer": Style(RAISES, DASHED),
    "different layers": Style(LOWERS, DOTTED),
}
"""Kinds of entries of the matrix, and how they are drawn."""

_DECADES: Final = 8


def kinds_of_entries(counts: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    """Return which entries of a matrix belong to which of :data:`KINDS`, each pair once.

    Args:
        counts: rows of each layer.
    """
    layer = np.repeat(np.arange(len(counts)), counts)
    same, below = layer[:, None] == layer, np.tri(len(layer), k=-1, dtype=bool)
    return {"diagonal": np.eye(len(layer), dtype=bool), "same layer": same & below, "different layers": ~same & below}


def magnitude_histogram(matrix: Matrix, counts: Sequence[int]) -> tuple[Matrix, dict[str, Matrix]]:
    """Return edges (m + 1,) in log10 |F_ab| and the percentage of each kind of entry in each bin, (m,).

    Entries more than 8 decades below the greatest one count in the lowest bin.
    """
    top = np.ceil(np.log10(matrix.max()))
    edges = np.linspace(top - _DECADES, top, 4 * _DECADES + 1)
    logs = np.log10(np.maximum(np.abs(matrix), 10 ** edges[0]))
    return edges, {
        kind: 100 * np.histogram(logs[entries], edges)[0] / max(entries.sum(), 1)
        for kind, entries in kinds_of_entries(counts).items()
    }


def fim_figure(matrix: Matrix, normalised: Matrix, counts: Sequence[int]) -> Figure:
    """Draw the normalised matrix F_ab / sqrt(F_aa F_bb) beside the raw one; lines separate the layers.

    Args:
        matrix: F, (K, K).
        normalised: the same, between -1 and 1.
        counts: rows of each layer.
    """
    with theme():
        figure = Figure(figsize=(6.6, 2.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        colours = LinearSegmentedColormap.from_list("signed", [LOWERS, "#ffffff", RAISES])
        drawn = left.imshow(normalised, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
        figure.colorbar(drawn, ax=left, label="F$_{ab}$ / √(F$_{aa}$ F$_{bb}$)", ticks=[-1, 0, 1], shrink=0.8)
        top = float(np.log10(matrix.max()))
        logs = np.log10(np.maximum(np.abs(matrix), 10 ** (top - _DECADES)))
        drawn = right.imshow(logs, cmap="Greys", vmin=top - 6, vmax=top, interpolation="nearest")
        figure.colorbar(drawn, ax=right, label="log$_{10}$ |F$_{ab}$| (nats²)", shrink=0.8, extend="min")
        for axes in (left, right):
            _mark_layers(axes, counts)
    return figure


def _mark_layers(axes: Axes, counts: Sequence[int]) -> None:
    ends = np.cumsum(counts)
    centres = ends - np.asarray(counts) / 2 - 0.5
    for end in ends[:-1]:
        for line in (axes.axhline, axes.axvline):
            line(end - 0.5, color="#444444", linewidth=0.6)
    axes.set_xticks(centres, [str(i + 1) for i in range(len(counts))])
    axes.set_yticks(centres, [str(i + 1) for i in range(len(counts))])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.set(xlabel="entries b of layer", ylabel="entries a of layer")


def fim_histogram(matrix: Matrix, counts: Sequence[int]) -> Figure:
    """Draw the magnitudes of the diagonal against those of the other entries; arguments as :func:`fim_figure`."""
    edges, shares = magnitude_histogram(matrix, counts)
    with theme():
        figure = Figure(figsize=WIDE, layout="constrained")
        axes = figure.add_subplot()
        for kind, style in KINDS.items():
            look: dict[str, Any] = {"color": style.color, "linestyle": style.dash, "linewidth": 1.6}
            axes.stairs(shares[kind], edges, label=kind, **look)
        axes.set(xlabel="log$_{10}$ |F$_{ab}$| (nats²)", ylabel="% of entries of the kind per bin")
        axes.set_xlim(edges[0], edges[-1])
        figure.legend(loc="outside upper center", ncols=3)
    return figure
