"""A bound on the number of images that are as smooth as those of a set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from fisherscope.config import Strict
from fisherscope.pipeline.reproduce import image_statistics
from fisherscope.pipeline.reproduce.cases import histogram_json
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.smoothness import Curve, smoothness_figure
from fisherscope.report.text_table import TextCell, TextTable

_LEVELS: Final = 256
_LARGEST_SLOPE: Final = 40.0
_QUANTILES: Final = {"half": 0.5, "95 %": 0.95, "all": 1.0}
_POINTS: Final = 120
_CAPTION: Final = (
    "Figure, above: total variation of the test images of each set, in levels a pair of neighbours. Below: upper "
    "bound of the share of all images of that shape that are as smooth or smoother; the marks are at the medians of "
    "the sets, white noise lies at the right end. Table: for the total variation that half, 95 % and all of a set's "
    "images do not exceed, the bound, and the bits/dim of a model that spreads its mass evenly over so many images."
)


def run(context: Context, options: Strict) -> Outcome:
    """Bound the number of images as smooth as the smoother half, 95 % and all of every set."""
    figures, captions, tables, drawn, found = {}, {}, {}, {}, []
    for grid, names in context.sets.items():
        images = {name: context.samples(name).x for name in names}
        for shape in dict.fromkeys(x.shape[1:] for x in images.values()):
            stem = f"{grid}-{'x'.join(map(str, shape))}"
            values = {name: _per_pair(x) for name, x in images.items() if x.shape[1:] == shape}
            curve = bound_curve(shape)
            figures[stem], captions[stem] = smoothness_figure(values, curve), _CAPTION
            rows = [_set_json(grid, name, shape, v) for name, v in values.items()]
            tables[stem] = _table(rows)
            drawn[stem] = {"curve": curve.to_json(), "histogram": histogram_json(values, None)}
            found += rows
    return Outcome({"sets": found, "figures": drawn}, _note(found), figures=figures, tables=tables, captions=captions)


def log2_share(total_variation: float, shape: tuple[int, ...], levels: int = _LEVELS) -> float:
    """Return an upper bound of log2 of the share of images whose total variation is at most a given one.

    With TV(x) = sum |x_i - x_j| over all horizontal and vertical neighbours, and any s >= 0, the number N of images of
    ``levels`` levels with TV(x) <= t is at most e^(s t) sum_x e^(-s TV(x)) (Chernoff). That sum is taken pixel by pixel
    from the last one in reading order backwards. A pixel with a left neighbour a and an upper neighbour b contributes,
    by the inequality of Cauchy and Schwarz,

        sum_k e^(-s |k - a| - s |k - b|) <= max_a sum_k e^(-2 s |k - a|) = A(2 s),

    whatever the pixels before it; the maximum is at the middle level. A pixel of the first row or column has one such
    neighbour and contributes at most A(s), the very first one ``levels``. So in each channel of H x W pixels

        log N <= s t + log(levels) + (H + W - 2) log A(s) + (H - 1)(W - 1) log A(2 s),

    and with t shared by all channels the terms without t count once a channel. The bound is convex in s; its least
    value is taken. At s = 0 it says N <= levels^(C H W), so the share never exceeds 1.

    Args:
        total_variation: t, in levels, of the whole image.
        shape: (C, H, W).
        levels: number of levels of a pixel, 0 ... levels - 1.
    """
    channels, height, width = shape
    pixels = height * width

    def log_share(s: float) -> float:
        pair, edge = _log_neighbour_sum(2 * s, levels), _log_neighbour_sum(s, levels)
        sums = math.log(levels) + (height + width - 2) * edge + (height - 1) * (width - 1) * pair
        return s * total_variation + channels * (sums - pixels * math.log(levels))

    found = minimize_scalar(log_share, bounds=(0, _LARGEST_SLOPE), method="bounded", options={"xatol": 1e-9})
    return min(0.0, float(found.fun)) / math.log(2)


def _log_neighbour_sum(s: float, levels: int) -> float:
    """Return log A(s), A(s) = sum_k e^(-s |k - a|) at the middle level a."""
    return math.log(np.exp(-s * np.abs(np.arange(levels) - levels // 2)).sum())


def bound_curve(shape: tuple[int, ...]) -> Curve:
    """Return the bound for total variations up to that of white noise, (levels^2 - 1) / (3 levels) a pair."""
    pairs = image_statistics.neighbours(shape)
    per_pair = np.linspace(0, (_LEVELS**2 - 1) / (3 * _LEVELS), _POINTS)
    return Curve(per_pair, np.array([log2_share(v * pairs, shape) for v in per_pair]))


def _per_pair(x: NDArray[np.uint8]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = image_statistics.total_variation(x) / image_statistics.neighbours(x.shape[1:])
    return values


def _set_json(grid: str, name: str, shape: tuple[int, ...], values: NDArray[np.float64]) -> dict[str, Any]:
    pairs, dims = image_statistics.neighbours(shape), math.prod(shape)
    bounds = {}
    for part, quantile in _QUANTILES.items():
        per_pair = float(np.quantile(values, quantile))
        share = log2_share(per_pair * pairs, shape)
        bounds[part] = {
            "total_variation": per_pair,
            "log2_share": share,
            "bits_per_dim": math.log2(_LEVELS) + share / dims,
        }
    return {"grid": grid, "set": name, "shape": list(shape), "n": len(values), "bounds": bounds}


def _table(rows: Sequence[dict[str, Any]]) -> TextTable:
    heads = [(part, what) for part in _QUANTILES for what in ("variation", "log2 of the share ≤", "bits/dim ≤")]
    return TextTable("as smooth as", heads, [(row["set"], list(_cells(row))) for row in rows])


def _cells(row: dict[str, Any]) -> Iterable[TextCell]:
    for bound in row["bounds"].values():
        yield TextCell(f"{bound['total_variation']:.1f}")
        yield TextCell(f"−{abs(bound['log2_share']):,.0f}")
        yield TextCell(f"{bound['bits_per_dim']:.2f}")


def _note(found: Sequence[dict[str, Any]]) -> str:
    """Say how few images are as smooth as those of each set, and what that can and cannot explain."""
    said = [
        f"{row['set']}: {row['bounds']['95 %']['total_variation']:.1f} levels a pair, a share of at most "
        f"2^{row['bounds']['95 %']['log2_share']:.0f}, {row['bounds']['95 %']['bits_per_dim']:.2f} bits/dim if a model "
        "spread its mass evenly over them."
        for row in found
    ]
    return (
        f"Images as smooth as 95 % of a set. {' '.join(said)} A model can give every one of so few images a high "
        "likelihood and still almost never draw one of them, as long as their bits/dim stay above that number; below "
        "it the bound is silent."
    )
