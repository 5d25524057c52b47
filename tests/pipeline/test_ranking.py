"""The curator's list, and the files of explanations."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fisherscope
from fisherscope.core.errors import DataError, ModelError, SettingError
from fisherscope.core.store import read_arrays
from fisherscope.detectors import adjusted_p_values, benjamini_hochberg
from fisherscope.pipeline import explained
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.explained import write_explanation, write_ranking
from fisherscope.pipeline.explanation import explain_groups
from fisherscope.pipeline.guard import Guard
from fisherscope.pipeline.ranking import rank_groups
from fisherscope.pipeline.saliency import ExplainSettings


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


def test_clusters_take_the_promise_back(glow, digits, mixed):
    some = digits.select(range(300))
    tracks = replace(some, clusters=tuple(f"t{i // 10}" for i in range(300)))
    guard = fisherscope.fit(glow, tracks, detector="pixel-mahalanobis", fpr=0.3)
    notes = " ".join(explained.ranking_notes(rank_groups(guard, mixed, top=3)))
    assert "that is not promised: the calibration samples come from 15 clusters" in notes
    assert "On average at most" not in notes


def test_samples_that_were_learnt_from_are_said(guard, digits):
    ranking = rank_groups(guard, digits.select(range(295, 310)), top=3)
    assert ranking.n_known == 5
    assert "or that its model was trained on: 5, whose p-values promise nothing" in explained.ranking_notes(ranking)[-1]


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
    assert list(rows[0]) == ["rank", "id", "score", "p_value", "adjusted_p_value", "discovery", "layers"]
    assert rows[0]["discovery"] == "true"
    assert not ranking.n_known and "With samples that the guard" not in " ".join(explained.ranking_notes(ranking))
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


def test_an_explanation_takes_the_place_of_an_earlier_one(guard, digits, tmp_path, monkeypatch):
    samples, folder = digits.select(range(300, 304)), tmp_path / "why"

    def write(samples, **settings):
        write_explanation(explain_groups(guard, samples, **settings), as_batches(samples, guard.target), folder, "c")

    def files():
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    write(samples, reference=digits.select(range(100)))
    (folder / "notes.txt").write_text("mine")
    (folder / "heatmaps" / "mine.png").write_text("mine")
    before = files()
    assert "layers.csv" in before and len(before) == 4 + 4 + 2 + 1  # the last lists the first eight

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(explained, "write_explained_page", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(samples.select([3]))
    assert files() == before
    write(samples.select([3]))
    names = {n for n in files() if not n.startswith("heatmaps/0000-")}
    own = {"index.html", "explanations.json", "maps.safetensors", ".index.html.files"}
    assert names == {*own, "notes.txt", "heatmaps/mine.png"}
    assert len(files()) == len(names) + 1
    folder = folder / "notes.txt"
    with pytest.raises(DataError, match="is a file"):
        write(samples)


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 2)


def test_a_list_without_maps_says_why(tmp_path):
    """Columns of integers that no embedding looks up: nothing to differentiate by."""
    x = np.random.default_rng(0).integers(0, 9, (80, 4))

    def log_prob(module, x):
        return -module.linear(x.float()).square().sum(1)

    guard = fisherscope.fit(Rows(), x, log_prob=log_prob, detector="total-norm", fpr=0.1)
    for settings in (None, ExplainSettings()):
        ranking = rank_groups(guard, x[:20], top=3, settings=settings)
        assert ranking.explanation is None and len(ranking.ids) == 3
        (note,) = ranking.notes
        assert note.startswith("There are no heat maps: Rows: the score depends on no sample differentiably")
    write_ranking(ranking, tmp_path / "r.html", "command")
    assert "There are no heat maps: Rows: the score" in (tmp_path / "r.html").read_text()
    with pytest.raises(ModelError, match="depends on no sample differentiably"):
        rank_groups(guard, x[:20], top=3, settings=ExplainSettings(aggregate="sum"))
    with pytest.raises(DataError, match="the guard was fitted on samples that are integer"):
        rank_groups(guard, x[:20], top=3, reference=x / 2.0)


def test_samples_of_several_arrays_are_ranked_without_being_shown(tmp_path):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(80, 4)).astype(np.float32), "b": rng.normal(size=(80, 2)).astype(np.float32)}

    def log_prob(module, x):
        return -(module.linear(x["a"]) - x["b"]).square().sum(1)

    for detector in ("total-norm", "typicality-fisher"):
        guard = fisherscope.fit(Rows(), x, log_prob=log_prob, detector=detector, fpr=0.1)
        ranking = rank_groups(guard, x, top=3)
        assert ranking.explanation is None and "no heat maps" in ranking.notes[0]
        for name in ("r.csv", "r.html"):
            write_ranking(ranking, tmp_path / name, "command")
            assert all(i[0] in (tmp_path / name).read_text() for i in ranking.ids)


def test_layers_are_compared_with_a_reference_whether_the_detector_has_a_gradient_or_not(glow, digits):
    guard = fisherscope.fit(glow, digits.select(range(200)), detector="typicality-fisher", fpr=0.1)
    samples, reference = digits.select(range(300, 320)), digits.select(range(200, 260))
    assert rank_groups(guard, samples, top=3).layers is None
    ranking = rank_groups(guard, samples, top=3, reference=reference)
    with_gradient = fisherscope.fit(glow, digits.select(range(200)), detector="total-norm", fpr=0.1)
    order = [samples.ids.index(i[0]) for i in ranking.ids]
    expected = explain_groups(with_gradient, samples.select(order), reference=reference).layers
    assert ranking.layers.kind == "z" and ranking.layers.layers == expected.layers
    np.testing.assert_allclose(ranking.layers.values, expected.values, rtol=1e-6)


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


@pytest.mark.parametrize(
    ("detector", "settings", "message"),
    [
        ("pixel-mahalanobis", ExplainSettings(method="leverage"), "give some as the reference"),
        ("dose-svm", ExplainSettings(method="gradient", smooth=2), "has no gradient"),
    ],
)
def test_a_map_that_cannot_be_had_is_refused_before_the_work(
    glow, digits, mixed, monkeypatch, detector, settings, message
):
    guard = fisherscope.fit(glow, digits.select(range(100)), detector=detector, fpr=0.1)
    monkeypatch.setattr(Guard, "extract_checked", lambda *_: pytest.fail("extracted"))
    with pytest.raises(SettingError, match=message):
        rank_groups(guard, mixed, settings=settings)
