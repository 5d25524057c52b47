import io

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from fisherscope.report.theme import RC, detector_styles, display_name, format_p, label_text, set_styles, theme

KNOWN = ("fashion_mnist", "mnist", "cifar10", "svhn", "celeba", "gtsrb", "tiny_imagenet32", "imagenet32")


def luminance(color):
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_set_keeps_its_style_in_every_figure():
    alone, together = set_styles(("mnist",)), set_styles(KNOWN)
    assert alone["mnist"] == together["mnist"]
    names = ("mnist[train]", "mnist[test]", "somewhere/mnist", "mnist-16[train]", "mnist-rgb")
    assert [set_styles((name,))[name] for name in names] == [alone["mnist"]] * len(names)


def test_styles_of_one_figure_differ_even_for_unknown_sets():
    names = (*KNOWN, *(f"folder{i}" for i in range(8)))
    styles = set_styles(names)
    assert len(set(styles.values())) == len(names)
    assert set_styles(names) == styles


def test_unknown_sets_have_a_stable_style():
    # A hash that changed between runs or versions would repaint every figure.
    assert (
        set_styles(("my_pictures",))["my_pictures"].color
        == set_styles(("my_pictures[test]",))["my_pictures[test]"].color
    )
    assert detector_styles(("mine:Detector",)) == detector_styles(("mine:Detector",))


def test_colours_are_dark_enough_for_white_paper():
    styles = {**set_styles(KNOWN), **detector_styles(("likelihood", "total-norm", "a", "b", "c"))}
    assert max(luminance(style.color) for style in styles.values()) < 0.75


@pytest.mark.parametrize(
    ("name", "shown"),
    [("mnist[test]", "mnist"), ("mnist[train]", "mnist[train]"), ("/data/cats", "cats"), ("a/b.parquet", "b.parquet")],
)
def test_display_name(name, shown):
    assert display_name(name) == shown


@pytest.mark.parametrize(("p", "text"), [(1.0, "1.000"), (0.0083, "0.008"), (0.001, "0.001"), (0.0001, "1.0e-04")])
def test_format_p(p, text):
    assert format_p(p) == text


def test_theme_leaves_the_callers_settings_alone():
    before = mpl.rcParams["font.size"]
    with theme():
        assert mpl.rcParams["font.size"] == RC["font.size"]
    assert mpl.rcParams["font.size"] == before


def test_texts_of_the_users_are_shown_letter_by_letter():
    assert label_text("cost $_$") == r"cost \$_\$" and label_text("_odd").lstrip("\u200b") == "_odd"
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], label=label_text("_$x_^"))
    axes.set_title(label_text("price $_$ and $6_x^"))
    (entry,) = axes.legend().get_texts()
    figure.savefig(io.BytesIO())
    assert entry.get_text().endswith(r"_\$x_^")
