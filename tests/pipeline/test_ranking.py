"""The curator's list, and the files of explanations."""

import csv
import io
import json

import numpy as np
import pytest

import fisherscope
from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.store import read_arrays
from fisherscope.detectors import adjusted_p_values, benjamini_hochberg
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.explained import write_explanation, write_ranking
from fisherscope.pipeline.explanation import explain_groups
from fisherscope.pipeline.ranking import rank_groups


@pytest.fixture(scope="module")
def guard(glow, digits):
    return fisherscope.fit(glow, digits.select(range(300)), detector="pixel-mahalanobis", fpr=0.05)


@pytest.fixture(scope="module")
def mixed(digits):
    """Sixty digits, ten of which are noise."""
    x = digits.x[400:460].copy()
    x[::6] = np.random.default_rng(0).integers(0, 256, x[::6].shape)
    return x


def test_planted_noise_leads_the_list(guard, mixed):
    ranking = rank_groups(guard, mixed, top=12, fdr=0.2)
    assert {i[0] for i in ranking.ids[:10]} == {f"[{i}]" for i in range(0, 60, 6)}
    assert ranking.discovery[:10].all()
    assert (np.diff(ranking.score) <= 0).all() and len(ranking.ids) == 12 and ranking.n_groups == 60
    verdict = guard.judge(mixed)
    assert ranking.n_discoveries == benjamini_hochberg(verdict.p_value, 0.2).sum() >= 10
    order = [int(i[0][1:-1]) for i in ranking.ids]
    np.testing.assert_array_equal(ranking.score, verdict.score[order])
    np.testing.assert_array_equal(ranking.adjusted, adjusted_p_values(verdict.p_value)[order])
    np.testing.assert_array_equal(ranking.samples.x, mixed[order])
    assert ranking.explanation.ids == ranking.ids
    np.testing.assert_allclose(ranking.explanation.maps, guard.explain(mixed).maps[order], rtol=1e-6)


def test_how_many_groups_a_discovery_takes(guard, mixed):
    ranking = rank_groups(guard, mixed, top=1, fdr=0.05)
    n = len(guard.calibration.scores)
    k = ranking.least_discoverable()
    p = np.ones(60)
    p[:k] = 1 / (n + 1)
    assert adjusted_p_values(p)[0] <= 0.05 + 1e-12
    p[k - 1] = 1
    assert adjusted_p_values(p)[0] > 0.05


def test_groups_are_ranked_as_groups(glow, digits):
    guard = fisherscope.fit(glow, digits.select(range(200)), detector="layerwise-forest", fpr=0.1, group_size=2)
    ranking = rank_groups(guard, digits.select(range(300, 321)), top=3)
    assert ranking.n_groups == 10 and all(len(i) == 2 for i in ranking.ids) and ranking.explanation is None
    assert [i for pair in ranking.ids for i in pair] == list(ranking.samples.ids)
    assert ranking.left_out == guard.judge(digits.select(range(300, 321))).left_out == (digits.ids[320],)
    assert guard.judge(guard.extract(digits.select(range(300, 321)))).left_out == ()
    assert ranking.layers.kind == "z" and ranking.layers.values.shape[0] == 3


def test_files_of_a_ranking(guard, mixed, tmp_path):
    ranking = rank_groups(guard, mixed, top=5, fdr=0.2)
    write_ranking(ranking, tmp_path / "r.csv", "command")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [r["id"] for r in rows] == [i[0] for i in ranking.ids]
    assert list(rows[0]) == ["rank", "id", "score", "p_value", "adjusted_p_value", "novel", "layers"]
    write_ranking(ranking, tmp_path / "r.html", "fisherscope rank x")
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png") == 10 and "of 60 are discoveries" in page and "fisherscope rank x" in page
    with pytest.raises(SettingError, match=r"'.txt', expected .csv, .jsonl, .parquet, or .html"):
        write_ranking(ranking, tmp_path / "r.txt", "command")


def test_files_of_an_explanation(glow, digits, tmp_path):
    guard = fisherscope.fit(glow, digits.select(range(200)), fpr=0.1, group_size=2)
    samples = as_batches(digits.select(range(300, 305)), guard.target)
    found = explain_groups(guard, samples)
    page = write_explanation(found, samples, tmp_path / "why", "command")
    assert found.left_out == samples.ids[-1:]
    assert page == tmp_path / "why" / "index.html" and page.read_text().count("data:image/png") == 8
    assert len(list((tmp_path / "why" / "heatmaps").glob("*.png"))) == 4
    arrays, card = read_arrays(tmp_path / "why" / "maps.safetensors")
    np.testing.assert_array_equal(arrays["maps"], found.maps)
    assert card == {"kind": "pixels", "method": "contrast", "ids": [list(i) for i in found.ids]}
    said = json.loads((tmp_path / "why" / "explanations.json").read_text())
    assert said["map"] == "pixels" and said["layers"] == "z" and len(said["groups"]) == 2
    assert said["groups"][1]["score"] == found.score[1] and len(said["groups"][1]["layers"]) == 5
    rows = list(csv.reader(io.StringIO((tmp_path / "why" / "layers.csv").read_text())))
    assert len(rows) == 1 + found.layers.values.size and float(rows[1][2]) == found.layers.values[0, 0]


def test_refusals(guard, mixed):
    with pytest.raises(SettingError, match="top is 0"):
        rank_groups(guard, mixed, top=0)
    with pytest.raises(SettingError, match="fdr is 2"):
        rank_groups(guard, mixed, fdr=2)
    for top, fdr, message in ((2.5, 0.1, "top is 2.5"), (5, "0.1", "fdr is '0.1'"), (5, 0, "fdr is 0")):
        with pytest.raises(SettingError, match=message):
            rank_groups(None, None, top=top, fdr=fdr)  # before anything is looked at
    with pytest.raises(DataError, match="holds no samples to show"):
        rank_groups(guard, guard.extract(mixed))
