"""Two layers against each other and all pulls on tiny models, against norms by hand."""

from dataclasses import replace

import numpy as np
import pytest
from by_hand import log_norms, other, parts_of

from fisherscope.core.errors import SettingError
from fisherscope.models.base import load_model
from fisherscope.pipeline.reproduce import context
from fisherscope.report.layers import PULL_EDGES, pull_histogram


def test_the_numbers(tiny, models):
    written = tiny("figure-layer-scatter", {"families": ("vae",), "in_dist": ("digits", "faces")})
    (found,) = written["results"]["models"]
    model = load_model(models / "vae-digits")
    layers = found["layers"]
    assert len(layers) > 10 and found["positions"] == [
        i for i, (name, _) in enumerate(model.named_parameters()) if name in layers
    ]
    digits, fit_rows, test_rows = parts_of("digits", 40)
    fit = log_norms(model, digits, fit_rows, layers)
    sets = {
        "digits[test]": log_norms(model, digits, test_rows, layers),
        "faces[test]": log_norms(model, *other("faces", 40), layers),
    }
    assert found["standard_error"] == pytest.approx((1 / 20 + 1 / 40) ** 0.5)
    pair = [layers.index(name) for name in found["scatter"]["layers"]]
    assert len(pair) == 2
    for name, logs in sets.items():
        pulls = (logs - fit.mean(0)) / fit.std(0, ddof=1)
        said = found["pulls"][name]
        assert said["layer_means"] == pytest.approx(pulls.mean(0), abs=1e-3)
        assert [said["mean"], said["deviation"]] == pytest.approx([pulls.mean(), pulls.std()], abs=1e-3)
        assert said["beyond_3"] == pytest.approx((np.abs(pulls) > 3).mean(), abs=2 / pulls.size)
        assert sum(said["percent"]) == pytest.approx(100)
        assert np.array(found["scatter"]["points"][name]) == pytest.approx(logs[:, pair], abs=1e-3)
        assert found["scatter"]["correlation"][name] == pytest.approx(np.corrcoef(logs[:, pair].T)[0, 1], abs=1e-3)
    assert written["figures"] == ["colour-vae-digits-b1-scatter", "colour-vae-digits-b1-pull"]
    table = written["tables"]["colour-models"]
    assert table["heads"] == [["digits"], ["faces"]] and [name for name, _ in table["rows"]] == ["vae-digits"]
    faces = found["pulls"]["faces[test]"]
    assert table["rows"][0][1][1]["text"] == f"{faces['mean']:+.2f} ± {faces['deviation']:.2f}"


def test_chosen_layers_must_be_two(tiny, models):
    grids = {"families": ("vae",), "in_dist": ("digits", "faces")}
    names = [name for name, _ in load_model(models / "vae-digits").named_parameters()][:3]
    chosen = tiny("figure-layer-scatter", grids, options={"layers": names[:2]})
    assert chosen["results"]["models"][0]["scatter"]["layers"] == names[:2]
    with pytest.raises(SettingError, match=r"has 3 of the layers .*, expected two of them"):
        tiny("figure-layer-scatter", grids, options={"layers": names})


def test_pulls_beyond_the_histogram_count_in_its_last_bins():
    percent = pull_histogram(np.array([[-50.0, 0.01], [7.0, 8.0]]))
    assert percent[0] == 25 and percent[-1] == 50
    assert percent[np.searchsorted(PULL_EDGES, 0.01) - 1] == 25


def test_dependent_samples_count_by_their_clusters(tiny, tmp_path, monkeypatch):
    read = context.load_samples

    def in_tracks(name, **how):
        samples = read(name, **how)
        return replace(samples, clusters=tuple(f"track {i // 10}" for i in range(len(samples))))

    monkeypatch.setattr(context, "load_samples", in_tracks)
    written = tiny("figure-layer-scatter", {"families": ("vae",), "in_dist": ("digits", "faces")})
    (found,) = written["results"]["models"]
    assert found["standard_error"] == pytest.approx((1 / 2 + 1 / 4) ** 0.5)
    assert "come from 4 and 2 clusters" in written["captions"]["colour-vae-digits-b1-pull"]
