"""Histograms of log f_l on tiny models, against norms by hand."""

import pytest
from by_hand import log_norms, other, parts_of

from fisherscope.core.errors import DataError, SettingError
from fisherscope.models.base import load_model
from fisherscope.pipeline.reproduce.layers import choose_layers

SIZE = 5


def test_the_numbers(tiny, models):
    options = {"n_statistics": 3, "fitted_distribution": True}
    grids = {"families": ("vae",), "in_dist": ("digits", "faces")}
    written = tiny("figure-layer-histograms", grids, options=options)
    (found,) = written["results"]["models"]
    assert len(found["layers"]) == 3 < found["layers_in_all"]
    model = load_model(models / "vae-digits")
    digits, fit_rows, test_rows = parts_of("digits", 40, SIZE)
    for layer in found["layers"]:
        names = [layer["layer"]]
        fit, test = (log_norms(model, digits, rows, names, SIZE) for rows in (fit_rows, test_rows))
        out = log_norms(model, *other("faces", 40, SIZE), names, SIZE)
        assert [layer["mean"], layer["deviation"]] == pytest.approx([fit.mean(), fit.std(ddof=1)], rel=1e-4)
        for name, direct in (("digits[test]", test), ("faces[test]", out)):
            assert layer["sets"][name]["n"] == len(direct)
            assert layer["sets"][name]["mean"] == pytest.approx(direct.mean(), rel=1e-4)
            assert sum(layer["histogram"]["percent"][name]) == pytest.approx(100)
    assert list(written["figures"]) == ["colour-vae-digits-b5"]


def test_all_layers_without_a_number_on_pages(tiny):
    written = tiny("figure-layer-histograms", {"families": ("vae",), "in_dist": ("digits", "faces")}, options={})
    (found,) = written["results"]["models"]
    assert len(found["layers"]) == found["layers_in_all"] > 20
    assert len(written["figures"]) == -(-found["layers_in_all"] // 20) and written["figures"][0].endswith("-p1")


def test_one_set_alone_is_an_error(tiny):
    with pytest.raises(DataError, match="only its own set; name others with --datasets"):
        tiny("figure-layer-histograms", {"families": ("vae",), "in_dist": ("digits",)})


def test_choosing_layers():
    names = ["a", "b", "c", "d"]
    assert choose_layers(names, ["d", "b", "x"], None, 0) == [1, 3]
    assert choose_layers(names, [], None, 0) == [0, 1, 2, 3] == choose_layers(names, [], 9, 0)
    assert choose_layers(names, [], 2, 0) == choose_layers(names, [], 2, 0)
    assert len({tuple(choose_layers(names, [], 2, seed)) for seed in range(9)}) > 1
    with pytest.raises(SettingError, match="none of the layers x; it has a, b, c, d"):
        choose_layers(names, ["x"], None, 0)


def test_the_options_of_the_command(run, models, tmp_path):
    code, out, err = run(
        *("reproduce", "figure-layer-histograms", "--models", models, "--family", "vae", "--n-statistics", 0),
        *("--out", tmp_path),
    )
    assert code and "n_statistics" in err, out
