"""Figures, tables and one self-contained HTML page."""

from fisherscope.report.content import LayerHistogram, RankedImage, ReportContent
from fisherscope.report.explained import ExplainedGroup, ExplainedPage, explained_rows, write_explained_page
from fisherscope.report.figures import (
    image_strip,
    layer_histogram,
    likelihood_histogram,
    roc_figure,
    sample_grid,
    save_figure,
)
from fisherscope.report.heatmap import display_image, heatmap_figure, overlay
from fisherscope.report.html import write_report
from fisherscope.report.tables import (
    difference_grid,
    latex_table,
    markdown_table,
    metric_grid,
    print_grid,
    rich_tables,
)
from fisherscope.report.text_table import TextCell, TextTable
from fisherscope.report.verdict import pair_verdicts

__all__ = [
    "ExplainedGroup",
    "ExplainedPage",
    "LayerHistogram",
    "RankedImage",
    "ReportContent",
    "TextCell",
    "TextTable",
    "difference_grid",
    "display_image",
    "explained_rows",
    "heatmap_figure",
    "image_strip",
    "latex_table",
    "layer_histogram",
    "likelihood_histogram",
    "markdown_table",
    "metric_grid",
    "overlay",
    "pair_verdicts",
    "print_grid",
    "rich_tables",
    "roc_figure",
    "sample_grid",
    "save_figure",
    "write_explained_page",
    "write_report",
]
