"""One self-contained HTML page: styles inline, pictures as data URIs, no script, no request to any network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fisherscope.core.store import atomic_folder, write_atomic
from fisherscope.report.content import RankedImage, ReportContent
from fisherscope.report.figures import (
    figure_bytes,
    image_strip,
    layer_histogram,
    likelihood_histogram,
    mosaic,
    roc_figure,
    sample_grid,
)
from fisherscope.report.tables import metric_grid
from fisherscope.report.templating import page_template
from fisherscope.report.theme import detector_styles, display_name, format_p, set_styles
from fisherscope.report.verdict import PairVerdict, headline, pair_verdicts

_PAGE: Final = "index.html"


@dataclass(frozen=True)
class _Picture:
    """A figure on the page: its file name without suffix, section, caption, and PNG and PDF content."""

    name: str
    section: str
    caption: str
    png: bytes
    pdf: bytes

    @property
    def uri(self) -> str:
        return _data_uri(self.png)


def write_report(content: ReportContent, folder: str | Path) -> Path:
    """Write ``index.html``, ``results.json`` and ``figures/*.png|pdf`` into a folder.

    Everything is rendered before the first file is written; a report that the folder holds gives way as a whole, its
    figures too, and other files in it stay.

    Returns:
        The path of ``index.html``.
    """
    folder = Path(folder)
    verdicts = pair_verdicts(content)
    pictures = list(_pictures(content))
    page = render_page(content, verdicts, pictures)
    results = json.dumps(_results(content, verdicts), indent=1, allow_nan=False) + "\n"
    with atomic_folder(folder, _PAGE) as new:
        for picture in pictures:
            write_atomic(new / "figures" / f"{picture.name}.png", picture.png)
            write_atomic(new / "figures" / f"{picture.name}.pdf", picture.pdf)
        write_atomic(new / "results.json", results.encode())
        write_atomic(new / _PAGE, page.encode())
    return folder / _PAGE


def render_page(content: ReportContent, verdicts: Sequence[PairVerdict], pictures: Sequence[_Picture]) -> str:
    """Return the page; every text in it is escaped."""
    filters: dict[str, Callable[..., str]] = {
        "display": display_name,
        "p_value": format_p,
        "percent": lambda share: f"{100 * share:.1f} %",
    }
    ranked = (*content.most_novel, *content.least_novel)
    detectors = tuple(dict.fromkeys(record.detector for record in content.records))
    return page_template("report.html", filters).render(
        content=content,
        headline=headline(content, tuple(verdicts)),
        verdicts=verdicts,
        pictures={s: [p for p in pictures if p.section == s] for s in ("likelihood", "roc", "layers", "samples")},
        grid=metric_grid(content.records),
        detector_colors={name: style.color for name, style in detector_styles(detectors).items()},
        set_colors={n: s.color for n, s in set_styles(tuple(dict.fromkeys(i.data_set for i in ranked))).items()},
        ranked=[(title, _thumbnails(images)) for title, images in _ranked_rows(content) if images],
    )


def _ranked_rows(content: ReportContent) -> tuple[tuple[str, tuple[RankedImage, ...]], ...]:
    return ("Most novel", content.most_novel), ("Least novel", content.least_novel)


def _thumbnails(images: Sequence[RankedImage]) -> list[tuple[RankedImage, str]]:
    return [(image, png_uri(mosaic(image.image[None]))) for image in images]


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Return pixels, RGB (H, W, 3), as the address of a PNG picture inside a page."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return _data_uri(buffer.getvalue())


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _pictures(content: ReportContent) -> Iterator[_Picture]:
    in_dist = content.protocol.in_dist
    if content.bits_per_dim:
        yield _picture("likelihood", "likelihood", "", likelihood_histogram(content.bits_per_dim, in_dist))
    for i, pair in enumerate(content.pairs):
        caption = f"{display_name(pair.in_dist)} → {display_name(pair.out_dist)}, B = {pair.group_size}"
        yield _picture(f"roc-{i}", "roc", caption, roc_figure(pair))
    for i, layer in enumerate(content.layers):
        caption = f"{layer.layer}, B = {layer.group_size}"
        yield _picture(f"layer-{i}", "layers", caption, layer_histogram(layer, in_dist))
    if content.most_novel or content.least_novel:
        yield _picture("novel", "novel", "", image_strip(content.most_novel, content.least_novel))
    if content.samples is not None:
        caption = f"{len(content.samples)} samples drawn from the model."
        yield _picture("samples", "samples", caption, sample_grid(content.samples))


def _picture(name: str, section: str, caption: str, figure: Figure) -> _Picture:
    return _Picture(name, section, caption, figure_bytes(figure, "png"), figure_bytes(figure, "pdf"))


def _results(content: ReportContent, verdicts: Sequence[PairVerdict]) -> Mapping[str, Any]:
    """Return what the page says, as JSON values."""
    return {
        "title": content.title,
        "headline": headline(content, tuple(verdicts)),
        "protocol": content.protocol.to_json(),
        "records": [record.to_json() for record in content.records],
        "comparisons": [
            {**asdict(v.column), "a": content.detector, "b": "likelihood", **asdict(v.comparison)}
            for v in verdicts
            if v.comparison is not None
        ],
        "model_card": dict(content.model_card),
        "versions": dict(content.versions),
        "command": content.command,
    }
