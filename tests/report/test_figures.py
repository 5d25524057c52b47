from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.evaluation import roc_points
from fisherscope.report import (
    image_strip,
    layer_histogram,
    likelihood_histogram,
    roc_figure,
    sample_grid,
    save_figure,
)
from fisherscope.report.figures import figure_bytes, mosaic


def legend_texts(figure: Figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def outlines(figure: Figure):
    """Return the unfilled step patches of a histogram by label."""
    return {p.get_label(): p for p in figure.axes[0].patches if p.get_label() and not p.get_label().startswith("_")}


def test_likelihood_histogram_counts_every_sample_of_every_set(content):
    figure = likelihood_histogram(content.bits_per_dim, content.protocol.in_dist)
    assert legend_texts(figure)[0] == "fashion_mnist (in-distribution)"
    steps = outlines(figure)
    assert len(steps) == 3
    for step in steps.values():
        assert step.get_data().values.sum() == pytest.approx(100)
    assert "bits per dimension" in figure.axes[0].get_xlabel()


def test_histogram_needs_the_in_distribution_set(content):
    with pytest.raises(DataError, match="'cifar10' is not among"):
        likelihood_histogram(content.bits_per_dim, "cifar10")


def test_constant_values_can_be_drawn():
    figure = likelihood_histogram({"a": np.full(9, 2.0), "b": np.full(5, 2.0)}, "a")
    assert all(step.get_data().values.max() == pytest.approx(100) for step in outlines(figure).values())


def test_fitted_normal_has_the_area_of_the_histogram(content):
    layer = content.layers[0]
    figure = layer_histogram(layer, content.protocol.in_dist)
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "fitted normal")
    x, y = curve.get_data()
    assert x[np.argmax(y)] == pytest.approx(layer.mean, abs=0.02)
    edges = next(iter(outlines(figure).values())).get_data().edges
    inside = np.trapezoid(y, x) / (edges[1] - edges[0])
    # The normal is cut at the ends of the axis: P(N(3, .5) inside).
    assert inside == pytest.approx(100, abs=1.5)
    assert layer.layer in figure.axes[0].get_xlabel()


def test_nothing_is_cut_off_above_or_floats_below(content):
    narrow = replace(content.layers[0], deviation=0.1)
    axes = layer_histogram(narrow, content.protocol.in_dist).axes[0]
    bottom, top = axes.get_ylim()
    highest = max(line.get_ydata().max() for line in axes.lines)
    assert bottom == 0 and top > highest


def test_roc_figure_draws_the_roc_points_and_sorts_the_legend(pairs):
    figure = roc_figure(pairs[0])
    labels = legend_texts(figure)
    assert labels == sorted(labels, reverse=True) and len(labels) == 3
    line = next(line for line in figure.axes[0].lines if line.get_label().endswith("likelihood"))
    fpr, tpr = roc_points(pairs[0].scores_in["likelihood"], pairs[0].scores_out["likelihood"])
    np.testing.assert_array_equal(line.get_data(), (fpr, tpr))


def test_image_strip_shows_every_image_with_its_p_value(content):
    figure = image_strip(content.most_novel * 4, content.least_novel[:2])
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 12 + 2
    assert [axes.get_ylabel() for axes in figure.axes[::8]] == ["most novel", "", "least novel"]
    assert shown[0].get_xlabel().startswith("p = 1.0e-04\n")
    np.testing.assert_array_equal(shown[0].images[0].get_array(), content.most_novel[0].image[0])
    with pytest.raises(DataError, match="no images"):
        image_strip((), ())


@pytest.mark.parametrize("channels", [1, 3])
def test_mosaic_holds_each_image_in_reading_order(channels):
    images = np.random.default_rng(0).integers(255, size=(5, channels, 4, 6), dtype=np.uint8)
    tiles = mosaic(images)
    assert tiles.shape == (2 * 5 - 1, 3 * 7 - 1, 3)
    for i, image in enumerate(images):
        top, left = i // 3 * 5, i % 3 * 7
        expected = np.broadcast_to(image.transpose(1, 2, 0), (4, 6, 3))
        np.testing.assert_array_equal(tiles[top : top + 4, left : left + 6], expected)
    assert (tiles[4] == 255).all() and (tiles[5:, 14:] == 255).all()


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 1, 4, 4)), np.zeros((2, 2, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8)]
)
def test_mosaic_refuses_what_is_no_image(bad):
    with pytest.raises(DataError, match="expected uint8"):
        mosaic(bad)


def test_save_figure_writes_both_files_reproducibly(tmp_path, content):
    figure = sample_grid(content.samples)
    png, pdf = save_figure(figure, tmp_path / "new" / "samples.v1")
    assert (png.name, pdf.name) == ("samples.v1.png", "samples.v1.pdf")
    with Image.open(png) as image:
        assert image.format == "PNG"
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert pdf.read_bytes() == figure_bytes(sample_grid(content.samples), "pdf")
    assert png.read_bytes() == figure_bytes(sample_grid(content.samples), "png")
    assert sorted(p.name for p in png.parent.iterdir()) == [pdf.name, png.name]
