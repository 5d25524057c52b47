"""Figures of a report and of a paper; each function returns a matplotlib Figure that needs no display."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.store import write_atomic
from fisherscope.evaluation import PairScores, auroc, roc_points
from fisherscope.report.content import LayerHistogram, RankedImage
from fisherscope.report.histograms import draw_histograms, draw_normal
from fisherscope.report.theme import WIDE, Style, detector_styles, format_p, set_label, set_styles, theme

Images = NDArray[np.uint8]

PNG_DPI = 200
STRIP_COLUMNS = 8


def likelihood_histogram(bits_per_dim: Mapping[str, NDArray[Any]], in_dist: str) -> Figure:
    """Draw the likelihood of every set: the plot that shows the paradox when OOD lies left of in-distribution.

    Args:
        bits_per_dim: -log2 p per dimension by data set, each of shape (n,).
        in_dist: which of them is in-distribution.
    """
    with theme():
        figure = Figure(figsize=WIDE, layout="constrained")
        axes = figure.add_subplot()
        draw_histograms(axes, bits_per_dim, in_dist)
        axes.set_xlabel("bits per dimension (← more likely)")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def layer_histogram(layer: LayerHistogram, in_dist: str) -> Figure:
    """Draw log f_l of one parameter tensor for every set, with the normal fitted to the in-distribution fit part."""
    with theme():
        figure = Figure(figsize=WIDE, layout="constrained")
        axes = figure.add_subplot()
        edges = draw_histograms(axes, layer.log_norms, in_dist)
        draw_normal(axes, edges, layer.mean, layer.deviation)
        axes.set_xlabel(f"log squared gradient norm (B = {layer.group_size}) of\n{textwrap.fill(layer.layer, 56)}")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def roc_figure(pair: PairScores) -> Figure:
    """Draw the ROC curves of all detectors of a pair; the legend gives each AUROC, the best first."""
    areas = {name: auroc(pair.scores_in[name], pair.scores_out[name]) for name in pair.scores_in}
    styles = detector_styles(tuple(areas))
    with theme():
        figure = Figure(figsize=(3.4, 3.2 + 0.17 * len(areas)), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.7)
        for name in sorted(areas, key=lambda n: -areas[n]):
            false_positive, true_positive = roc_points(pair.scores_in[name], pair.scores_out[name])
            label = f"{areas[name]:.3f}  {name}"
            axes.plot(false_positive, true_positive, color=styles[name].color, linestyle=styles[name].dash, label=label)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xticks=_TICKS, yticks=_TICKS)
        axes.set_xlabel(f"false-positive rate\n({set_label(pair.in_dist)} flagged)")
        axes.set_ylabel(f"true-positive rate\n({set_label(pair.out_dist)} flagged)")
        figure.legend(loc="outside lower center", title="AUROC, detector", alignment="left")
    return figure


_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def image_strip(most: Sequence[RankedImage], least: Sequence[RankedImage]) -> Figure:
    """Draw the most novel images above the least novel ones, each with its p-value in a frame of its set's colour."""
    if not most and not least:
        raise DataError("there are no images to draw")
    rows = [
        (title if start == 0 else "", images[start : start + STRIP_COLUMNS])
        for title, images in (("most novel", most), ("least novel", least))
        for start in range(0, len(images), STRIP_COLUMNS)
    ]
    columns = max(len(images) for _, images in rows)
    styles = set_styles(tuple(dict.fromkeys(image.data_set for image in (*most, *least))))
    with theme():
        figure = Figure(figsize=(0.78 * columns + 0.5, 1.2 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes_row, (title, images) in zip(grid, rows, strict=True):
            axes_row[0].set_ylabel(title)
            for axes, image in zip(axes_row, images, strict=False):
                _draw_ranked(axes, image, styles[image.data_set])
            for axes in axes_row[len(images) :]:
                axes.set_axis_off()
    return figure


def _draw_ranked(axes: Axes, image: RankedImage, style: Style) -> None:
    pixels = image.image.transpose(1, 2, 0)
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"p = {format_p(image.p_value)}\n{set_label(image.data_set)}", fontsize=7, color="#222222")
    axes.spines[:].set(visible=True, color=style.color, linewidth=1.8)


def sample_grid(images: Images) -> Figure:
    """Draw samples of the model, uint8 (n, C, H, W), as a mosaic."""
    tiles = mosaic(images)
    height, width = tiles.shape[:2]
    with theme():
        figure = Figure(figsize=(3.4, 3.4 * height / width))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.imshow(tiles, interpolation="nearest")
        axes.set_axis_off()
    return figure


def mosaic(images: Images) -> Images:
    """Arrange images (n, C, H, W), C = 1 or 3, as one RGB picture, at least as wide as high, a pixel of white between.

    Raises:
        DataError: not uint8, or not images.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise DataError(f"images are {images.dtype} of shape {images.shape}, expected uint8 (n, 1 or 3, H, W), n >= 1")
    n, _, height, width = images.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas


def figure_bytes(figure: Figure, kind: Literal["png", "pdf"]) -> bytes:
    """Return a figure as a file's content, the same bytes for the same figure."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None, "Producer": None, "Creator": None}
    with theme():
        figure.savefig(buffer, format=kind, dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> tuple[Path, Path]:
    """Write ``path`` + .png and ``path`` + .pdf, each atomically, and return both paths."""
    png, pdf = Path(f"{path}.png"), Path(f"{path}.pdf")
    contents = figure_bytes(figure, "png"), figure_bytes(figure, "pdf")
    for target, content in zip((png, pdf), contents, strict=True):
        write_atomic(target, content)
    return png, pdf
