"""One look for every figure: a data set and a detector keep their colour and dash pattern everywhere.

Colours follow Okabe & Ito and Paul Tol (colour-blind safe); dash patterns tell lines apart in grey print.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final

import matplotlib as mpl

Dash = str | tuple[float, tuple[float, ...]]

SOLID, DASHED, DOTTED, DASH_DOT = "-", (0.0, (5.0, 1.6)), (0.0, (1.2, 1.2)), (0.0, (6.0, 1.5, 1.2, 1.5))
LONG, DASH_DOT_DOT = (0.0, (10.0, 2.0)), (0.0, (6.0, 1.5, 1.2, 1.5, 1.2, 1.5))

WIDE: Final = (4.6, 2.9)
"""Inches of an ordinary figure: 9 pt text stays legible when a phone shows it at 360 px."""

RC: Final[Mapping[Any, Any]] = MappingProxyType(
    {
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.labelsize": 9,
        "axes.titlesize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "axes.axisbelow": True,
        "axes.edgecolor": "#444444",
        "xtick.color": "#444444",
        "ytick.color": "#444444",
        "lines.linewidth": 1.6,
        "figure.facecolor": "white",
        "pdf.fonttype": 42,
    }
)


@dataclass(frozen=True)
class Style:
    """How a line is drawn.

    Attributes:
        color: as #rrggbb.
        dash: matplotlib line style.
    """

    color: str
    dash: Dash


_SETS: Final[Mapping[str, Style]] = MappingProxyType(
    {
        "fashion_mnist": Style("#0072B2", SOLID),
        "mnist": Style("#D55E00", DASHED),
        "cifar10": Style("#009E73", SOLID),
        "svhn": Style("#E69F00", DASH_DOT),
        "celeba": Style("#CC79A7", DASHED),
        "gtsrb": Style("#882255", DASH_DOT),
        "tiny_imagenet32": Style("#56B4E9", DOTTED),
        "imagenet32": Style("#332288", LONG),
        "digits": Style("#B8860B", DASHED),
        "faces": Style("#AA4499", DASH_DOT),
    }
)
_OTHER_SETS: Final = tuple(
    Style(color, dash)
    for color, dash in (
        ("#117733", SOLID),
        ("#D55E00", DOTTED),
        ("#332288", DASHED),
        ("#E69F00", LONG),
        ("#882255", DOTTED),
        ("#0072B2", DASH_DOT),
        ("#999933", DASHED),
        ("#CC79A7", LONG),
        ("#44AA99", DASH_DOT_DOT),
        ("#661100", DASH_DOT),
    )
)
_DETECTORS: Final[Mapping[str, Style]] = MappingProxyType(
    {
        "fisher-dose": Style("#228833", SOLID),
        "likelihood": Style("#BB5566", DASHED),
        "typicality": Style("#7A6A53", DASH_DOT),
        "layerwise-gaussian": Style("#004488", SOLID),
        "total-norm": Style("#DDAA33", LONG),
        "pixel-mahalanobis": Style("#000000", DOTTED),
    }
)
_OTHER_DETECTORS: Final = tuple(
    Style(color, dash)
    for color, dash in (
        ("#EE7733", SOLID),
        ("#66CCEE", DASH_DOT),
        ("#AA3377", DASH_DOT_DOT),
        ("#4477AA", DOTTED),
        ("#999933", LONG),
        ("#EE6677", DASH_DOT),
        ("#777777", SOLID),
    )
)


@contextmanager
def theme() -> Iterator[None]:
    """Draw and save figures with the project's settings; the caller's matplotlib settings come back afterwards."""
    with mpl.rc_context(dict(RC)):
        yield


def display_name(name: str) -> str:
    """Return a data set's name for labels: the last part of a path, without the split when that is the test split."""
    return PurePath(name).name.removesuffix("[test]") or name


def label_text(text: str) -> str:
    """Return a text of the user's, a file name say, as matplotlib shows it letter by letter."""
    escaped = text.replace("$", r"\$")  # or what is between two of them is set as a formula
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped  # or a legend leaves it out


def set_label(name: str) -> str:
    """Return :func:`display_name` as figures take it."""
    return label_text(display_name(name))


def format_p(p_value: float) -> str:
    """Return a p-value to three digits after the point, or to two significant ones where those would be zeros."""
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.1e}"


def set_styles(names: tuple[str, ...]) -> dict[str, Style]:
    """Return the style of each data set, distinct within one figure while styles last.

    Known sets have a fixed style whatever their split or size (``mnist[train]`` is mnist, ``faces-16`` is faces);
    others take one by a stable hash of their name, the next free one when two of a figure collide.
    """
    return _styles(names, _SETS, _OTHER_SETS)


def detector_styles(names: tuple[str, ...]) -> dict[str, Style]:
    """Return the style of each detector, by the rules of :func:`set_styles`."""
    return _styles(names, _DETECTORS, _OTHER_DETECTORS)


def _styles(names: tuple[str, ...], known: Mapping[str, Style], others: tuple[Style, ...]) -> dict[str, Style]:
    styles: dict[str, Style] = {}
    for name in names:
        key = re.sub(r"\[.*\]$|\.(parquet|npy|npz)$|-(\d+|rgb)$", "", re.sub(r"\[.*\]$", "", display_name(name)))
        start = hashlib.blake2b(key.encode(), digest_size=8).digest()[0]
        rotation = [others[(start + i) % len(others)] for i in range(len(others))]
        candidates = [known[key]] if key in known else rotation
        styles[name] = next((s for s in candidates if s not in styles.values()), candidates[0])
    return styles
