"""A page of samples with what makes each of them novel: heat maps, tokens, columns and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.store import write_atomic
from fisherscope.report.heatmap import LOWERS, RAISES, display_image, full_colour, overlay
from fisherscope.report.html import png_uri
from fisherscope.report.templating import page_template
from fisherscope.report.theme import format_p

SHOWN_LAYERS: Final = 5
SHOWN_COLUMNS: Final = 8


@dataclass(frozen=True)
class ExplainedGroup:
    """One group of samples judged together, with its explanation.

    Attributes:
        names: of its samples.
        score: higher = more novel.
        p_value: conformal p-value.
        novel: whether it is called novel: at the guard's false-alarm rate; in a ranked list, as a discovery.
        samples: its samples, (B, ...), to be shown.
        maps: how much the score reacts to each pixel, token or column, (B, ...), or None where there is no gradient.
        kind: ``pixels``, ``tokens``, ``columns`` or ``entries``.
        layers: names of the layers that stand out, with their values, the largest first.
        adjusted: Benjamini-Hochberg's adjusted p-value, or None outside a ranked list.
        columns: names of the samples' columns, or None where they have none and go by their numbers.
    """

    names: tuple[str, ...]
    score: float
    p_value: float
    novel: bool
    samples: NDArray[Any]
    maps: NDArray[np.float64] | None
    kind: str
    layers: tuple[tuple[str, float], ...]
    adjusted: float | None = None
    columns: tuple[str, ...] | None = None

    @property
    def verdict(self) -> str:
        """What a novel one is called, which tells the two rules apart."""
        return "novel" if self.adjusted is None else "discovery"


@dataclass(frozen=True)
class ExplainedPage:
    """The page.

    Attributes:
        title: of the page.
        headline: the one sentence at its top.
        groups: in the order of the page.
        layer_kind: ``z`` or ``contribution``, see ``LayerProfile``; empty where no layers are shown.
        notes: sentences below the headline.
        command: command line that makes the page again.
    """

    title: str
    headline: str
    groups: tuple[ExplainedGroup, ...]
    layer_kind: str = ""
    notes: tuple[str, ...] = ()
    command: str = ""


def write_explained_page(page: ExplainedPage, path: Path) -> None:
    """Write the page as one self-contained HTML file, atomically; every text in it is escaped."""
    shown = [(group, [_shown(group, i) for i in range(len(group.samples))]) for group in page.groups]
    text = page_template("explained.html", {"p_value": format_p}).render(
        page=page, groups=shown, raises=RAISES, lowers=LOWERS
    )
    write_atomic(path, text.encode())


def _shown(group: ExplainedGroup, member: int) -> dict[str, Any]:
    """Return what the template shows of one sample: pictures, tokens or columns."""
    sample, heat = group.samples[member], None if group.maps is None else group.maps[member]
    if group.kind == "pixels":
        image = display_image(sample)
        pictures = [image] if heat is None else [image, overlay(image, heat)]
        return {"pictures": [png_uri(picture) for picture in pictures]}
    if group.kind == "tokens":
        heat = np.zeros(len(sample)) if heat is None else heat
        return {"tokens": [(text, _css(value)) for text, value in zip(token_texts(sample), _scaled(heat), strict=True)]}
    if heat is None:
        return {}
    flat, values = heat.ravel(), np.asarray(sample).ravel()
    order = np.argsort(-np.abs(flat), kind="stable")[:SHOWN_COLUMNS]
    names = group.columns or range(len(flat))
    return {"columns": [(names[i], float(values[i]), float(flat[i])) for i in order]}


def token_texts(sample: NDArray[Any]) -> list[str]:
    """Return each token as text: printable bytes as characters, other bytes in hexadecimal, integers as numbers."""
    if sample.dtype != np.uint8:
        return [str(int(token)) for token in sample]
    return [chr(b) if 32 <= b < 127 else {10: "⏎", 9: "⇥"}.get(int(b), f"\\x{b:02x}") for b in sample]


def _scaled(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = np.clip(heat / full_colour(heat), -1, 1)
    return scaled


def _css(value: float) -> str:
    """Return the background of a token: orange raises the score, blue lowers it."""
    share = round(100 * abs(value))
    return f"color-mix(in srgb, {RAISES if value >= 0 else LOWERS} {share}%, transparent)"


def explained_rows(groups: Sequence[ExplainedGroup]) -> list[dict[str, Any]]:
    """Return the groups as rows of a table: rank, id, score, p-values, and the layers that stand out."""
    return [
        {
            "rank": rank,
            "id": ";".join(group.names),
            "score": group.score,
            "p_value": group.p_value,
            **({} if group.adjusted is None else {"adjusted_p_value": group.adjusted}),
            group.verdict: group.novel,
            "layers": "; ".join(f"{name} {value:+.2f}" for name, value in group.layers),
        }
        for rank, group in enumerate(groups, 1)
    ]
