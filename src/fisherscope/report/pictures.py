"""Pictures of data sets and of what models draw, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.report.figures import mosaic
from fisherscope.report.histograms import wrap_name
from fisherscope.report.theme import theme

Images = NDArray[np.uint8]


def mosaic_table(rows: Mapping[str, Mapping[str, Images]], columns: Sequence[str]) -> Figure:
    """Draw a table of mosaics; what is not there stays empty.

    Args:
        rows: by what is said left of them, such as a data set: uint8 images (n, C, H, W) by column.
        columns: in their order, each said above.
    """
    if not rows or not columns:
        raise DataError("there are no images to draw")
    side = min(2.1, 6.6 / len(columns))
    with theme():
        figure = Figure(figsize=(side * len(columns) + 0.3, (side + 0.05) * len(rows) + 0.3), layout="constrained")
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for axes_row, (name, images) in zip(grid, rows.items(), strict=True):
            axes_row[0].set_ylabel(wrap_name(name, 24))
            for axes, column in zip(axes_row, columns, strict=True):
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if column in images:
                    axes.imshow(mosaic(images[column]), interpolation="nearest")
        for axes, column in zip(grid[0], columns, strict=True):
            axes.set_title(column)
    return figure
