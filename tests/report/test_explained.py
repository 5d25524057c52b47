"""Heat maps and the page of explained samples."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.report import (
    ExplainedGroup,
    ExplainedPage,
    display_image,
    explained_rows,
    heatmap_figure,
    overlay,
    write_explained_page,
)
from fisherscope.report.explained import token_texts
from fisherscope.report.figures import figure_bytes
from fisherscope.report.heatmap import LOWERS, RAISES, full_colour


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def group(**changes):
    settings = {
        "names": ("a.png",),
        "score": 3.5,
        "p_value": 0.02,
        "novel": True,
        "samples": np.full((1, 1, 4, 4), 90, dtype=np.uint8),
        "maps": np.arange(16.0).reshape(1, 4, 4),
        "kind": "pixels",
        "layers": (("net.0.weight", 4.2), ("net.0.bias", -3.0)),
    }
    return ExplainedGroup(**{**settings, **changes})


def test_colours_say_where_the_score_rises_and_falls():
    image = np.full((3, 3, 3), 200, dtype=np.uint8)
    heat = np.zeros((3, 3))
    heat[0, 0], heat[2, 1] = 5.0, -5.0
    found = overlay(image, heat)
    assert found[0, 0].tolist() == rgb(RAISES) and found[2, 1].tolist() == rgb(LOWERS)
    faded = found[1, 1]
    assert len(set(faded.tolist())) == 1 and faded[0] > 200
    np.testing.assert_array_equal(overlay(image, np.zeros((3, 3)))[0, 0], faded)
    heat[0, 1] = full_colour(heat) / 2
    np.testing.assert_allclose(overlay(image, heat)[0, 1], (np.asarray(rgb(RAISES)) + faded) / 2, atol=1)


def test_one_extreme_pixel_does_not_hide_the_others():
    heat = np.ones((32, 32))
    heat[3, 4] = 1000
    found = overlay(np.zeros((32, 32, 3), np.uint8), heat)
    np.testing.assert_array_equal(found[0, 0], found[3, 4])


def test_samples_are_shown_as_they_are_where_they_are_images():
    grey, colour = np.full((1, 2, 3), 7, np.uint8), np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
    assert display_image(grey).shape == (2, 3, 3) and (display_image(grey) == 7).all()
    np.testing.assert_array_equal(display_image(colour.astype(float)), colour.transpose(1, 2, 0))
    features = np.linspace(-1, 1, 24).reshape(2, 3, 4)
    assert display_image(features).min() == 0 and display_image(features).max() == 255
    assert (display_image(np.zeros((5, 2, 2))) == 0).all()
    with pytest.raises(DataError, match="expected an image"):
        display_image(np.zeros(4))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_figure_is_a_picture_and_the_same_each_time(sign):
    heat = np.random.default_rng(0).uniform(0, 1, (8, 8)) * np.where(np.eye(8) > 0, sign, 1)
    image = display_image(np.random.default_rng(1).integers(0, 256, (3, 8, 8), dtype=np.uint8))
    first, again = (figure_bytes(heatmap_figure(image, heat, "a: p = 0.02", "slope"), "png") for _ in range(2))
    assert first == again and Image.open(io.BytesIO(first)).size[0] > 800


def test_the_page_shows_every_kind_and_escapes_text(tmp_path):
    text_bytes = np.frombuffer(b"<i>\n\xff", np.uint8)
    groups = (
        group(names=("<b>x</b>.png", "y.png"), samples=np.zeros((2, 1, 4, 4), np.uint8), maps=np.ones((2, 4, 4))),
        group(maps=None, novel=False, adjusted=0.3),
        group(kind="tokens", samples=text_bytes[None], maps=np.asarray([[0, 1, 2, 3, -4.0]])),
        group(kind="columns", samples=np.asarray([[1.5, 2.5]]), maps=np.asarray([[0.1, 7.25]])),
    )
    page = ExplainedPage("t", "Two <of> four.", groups, "z", ("A note.",), "fisherscope rank <x>")
    write_explained_page(page, tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert "<b>x</b>" not in text and "<of>" not in text and "<i>" not in re.sub(r"<i style", "", text)
    assert text.count("data:image/png") == 2 * 2 + 1
    assert text.count('class="tag fails"') == 3 and "adjusted 0.300" in text and "+4.20" in text
    assert re.findall(r"in srgb, (#\w+) (\d+)%", text) == [
        *((RAISES, str(share)) for share in (0, 25, 51, 76)),
        (LOWERS, "100"),
    ]
    assert "⏎" in text and "\\xff" in text
    slopes = re.findall(r"<tr><th>(\d)</th><td>([\d.]+)</td><td>([\d.]+)</td>", text)
    assert slopes == [("1", "2.5", "7.25"), ("0", "1.5", "0.1")]


def test_tokens_that_are_no_bytes_are_numbers():
    assert token_texts(np.asarray([3, 50256])) == ["3", "50256"]


def test_rows_of_a_table():
    plain, ranked = explained_rows([group()])[0], explained_rows([group(adjusted=0.04)])[0]
    assert plain == {
        "rank": 1,
        "id": "a.png",
        "score": 3.5,
        "p_value": 0.02,
        "novel": True,
        "layers": "net.0.weight +4.20; net.0.bias -3.00",
    }
    assert ranked["adjusted_p_value"] == 0.04 and ranked["discovery"] and "novel" not in ranked
