"""How smooth sets are, and how few images are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fisherscope.report.histograms import common_histogram
from fisherscope.report.theme import set_styles, theme


@dataclass(frozen=True)
class Curve:
    """A bound.

    Attributes:
        per_pair: total variation in levels a pair of neighbours, (m,).
        log2_share: log2 of the share of all images that are at most so rough, (m,).
    """

    per_pair: NDArray[np.float64]
    log2_share: NDArray[np.float64]

    def to_json(self) -> dict[str, list[float]]:
        """Return the numbers as JSON values."""
        return {"per_pair": self.per_pair.tolist(), "log2_share": self.log2_share.tolist()}


def smoothness_figure(values: Mapping[str, NDArray[Any]], curve: Curve) -> Figure:
    """Draw the total variation of sets above the bound.

    Args:
        values: total variation in levels a pair of neighbours by data set, (n,) each.
        curve: the bound.
    """
    styles = set_styles(tuple(values))
    with theme():
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (1, 1.4)})
        edges, shares = common_histogram(values, None)
        lower.plot(curve.per_pair, curve.log2_share, color="black", linewidth=1.2)
        for name, style in styles.items():
            upper.stairs(shares[name], edges, color=style.color, linestyle=style.dash, linewidth=1.6, label=name)
            middle = float(np.median(values[name]))
            height = float(np.interp(middle, curve.per_pair, curve.log2_share))
            lower.plot([middle, middle], [height, 0], color=style.color, linestyle=style.dash, linewidth=1.2)
            lower.plot([middle], [height], color=style.color, marker="o", markersize=5)
        upper.set_ylabel("% of set per bin")
        lower.set(xlabel="mean difference of neighbouring pixels (levels)", ylabel="log$_2$ of the share of images ≤")
        lower.set_xlim(0, curve.per_pair[-1])
        figure.legend(loc="outside upper center", ncols=3)
    return figure
