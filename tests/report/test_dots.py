"""Figures of intervals: every dot where its figure is, every line under its name."""

import pytest

from fisherscope.core.errors import DataError
from fisherscope.evaluation import Interval
from fisherscope.report.curves import Curve, curve_figure
from fisherscope.report.dots import dot_figure
from fisherscope.report.figures import figure_bytes
from fisherscope.report.theme import detector_styles


def test_dots_lie_at_their_figures():
    styles = detector_styles(("likelihood", "typicality"))
    panels = {
        "glow": {"a → b": {"likelihood": Interval(0.2, 0.1, 0.3), "typicality": Interval(0.6, 0.5, 0.8)}},
        "vae": {"a → c": {"likelihood": Interval(0.9, 0.8, 1.0)}},
    }
    figure = dot_figure(panels, ["a → b", "a → c"], styles, "AUROC", rules=(1,))
    glow, vae = figure.axes
    assert [label.get_text() for label in glow.get_yticklabels()] == ["a → b", "a → c"]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in glow.lines[:2]}
    assert drawn["likelihood"][0] == [0.2] and drawn["typicality"][0] == [0.6]
    assert drawn["likelihood"][1][0] < 0 < drawn["typicality"][1][0] < 0.5
    likelihood = next(line for line in vae.lines if line.get_label() == "likelihood")
    assert list(likelihood.get_xdata()) == [0.9] and 0.5 < likelihood.get_ydata()[0] < 1.5
    low, high = glow.collections[1].get_segments()[0][:, 0]
    assert (low, high) == (0.5, 0.8)
    with pytest.raises(DataError, match="0 panels"):
        dot_figure({}, ["a"], styles, "AUROC")


def test_curves_lie_at_their_figures():
    here = Curve("typicality", "here", [1, 8], [Interval(0.6, 0.5, 0.7), Interval(0.8, 0.7, 0.9)])
    paper = Curve("typicality", "the paper", [1], [Interval(0.7, 0.7, 0.7)])
    axes = curve_figure([here, paper], "T", "AUROC").axes[0]
    first, second = axes.lines
    assert list(first.get_xdata()) == [1, 8] and list(first.get_ydata()) == [0.6, 0.8]
    assert list(second.get_ydata()) == [0.7] and second.get_label() == "typicality, the paper"
    assert first.get_color() == second.get_color() and first.get_marker() != second.get_marker()
    assert len(axes.collections) == 1 and axes.get_xscale() == "log"
    with pytest.raises(DataError, match="no curve"):
        curve_figure([], "T", "AUROC")


@pytest.mark.parametrize("name", ["detector", "a-detector-of-a-very-long-name"])
def test_curves_keep_their_height_under_a_long_legend_that_stays_inside(name):
    def height(count):
        curves = [Curve(f"{name}-{i:04}", "3 draws", (1, 2), [Interval(0.5, 0.4, 0.6)] * 2) for i in range(count)]
        figure = curve_figure(curves, "T", "AUROC")
        figure_bytes(figure, "png")
        frame = figure.legends[0].get_window_extent()
        assert frame.x0 >= 0 and frame.x1 <= figure.bbox.x1 and frame.y1 <= figure.bbox.y1
        return figure.axes[0].get_position().height * figure.get_figheight()

    assert height(4) > 1.5 and height(60) == pytest.approx(height(4), rel=0.2)
