"""Kept results are found again by the same code alone; tables that a user made always."""

import logging

import numpy as np
import pytest

from fisherscope.core.package_code import code_digest
from fisherscope.core.table import FeatureTable
from fisherscope.pipeline import cache, extraction
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.pipeline.extraction import extract_table
from fisherscope.pipeline.fitting import fit
from fisherscope.pipeline.reproduce.drawn import DRAWN, cached_arrays


@pytest.fixture
def code(monkeypatch):
    """Return a function that changes the code, as far as caches can tell, and returns how their files end then."""

    def change(digest):
        monkeypatch.setattr(cache, "code_digest", lambda *parts: digest)
        return cache.file_ending(cache.FEATURES)

    return change


def test_every_part_is_there():
    assert len({code_digest(*parts) for parts in (cache.FEATURES, cache.SCORES, DRAWN)}) == 3


def test_an_evaluation_extracts_again_where_the_code_changed_and_says_so_once(
    target, digits, tmp_path, code, monkeypatch, caplog
):
    in_dist, other = (as_batches(digits.select(range(*r)), target) for r in ((0, 80), (80, 100)))
    other = type(other)(other.x, other.ids, other.keys, "other")
    settings = EvaluationSettings(("likelihood", "typicality"), replicates=40, tables=tmp_path)
    before = code("aaaa")
    first = evaluate(target, in_dist, [other], settings)
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "extract_blocks", pytest.fail)
        assert evaluate(target, in_dist, [other], settings).records == first.records
    assert caplog.messages == []
    after = code("bbbb")
    real, calls = extraction.extract_blocks, []
    monkeypatch.setattr(extraction, "extract_blocks", lambda *a: calls.append(1) or real(*a))
    with caplog.at_level(logging.WARNING):
        assert evaluate(target, in_dist, [other], settings).records == first.records
    assert calls and len(caplog.messages) == 1 and "computed by other code" in caplog.messages[0]
    assert before != after
    assert len(list(tmp_path.glob(f"*{before}"))) == len(list(tmp_path.glob(f"*{after}"))) == 2


def test_unfinished_parts_of_the_same_code_are_no_other_codes(tmp_path, code, caplog):
    (tmp_path / f"card{code('aaaa')}.parts").mkdir()
    cache.cache_file(tmp_path, "card", cache.FEATURES)
    assert caplog.messages == []
    code("bbbb")
    cache.cache_file(tmp_path, "card", cache.FEATURES)
    assert len(caplog.messages) == 1


def test_other_libraries_are_another_code(monkeypatch):
    ending = cache.file_ending(cache.FEATURES)
    assert cache.file_ending(cache.FEATURES) == ending
    monkeypatch.setattr(cache, "versions", lambda: {"scikit-learn": "0"})
    assert cache.file_ending(cache.FEATURES) != ending


def test_a_table_that_a_user_made_with_other_code_is_read(target, digits, tmp_path, code, monkeypatch):
    code("aaaa")
    data = as_batches(digits.select(range(100)), target)
    made = extract_table(target, data, ("grad_norm",), out=tmp_path / "mine.safetensors")
    code("bbbb")
    monkeypatch.setattr(extraction, "extract_blocks", pytest.fail)
    again = extract_table(target, data, ("grad_norm",), out=tmp_path / "mine.safetensors")
    np.testing.assert_array_equal(again.block("grad_norm"), made.block("grad_norm"))
    guard = fit(target, FeatureTable.load(tmp_path / "mine.safetensors"), detector="layerwise-gaussian", fpr=0.1)
    assert guard.judge(made).score.shape == (100,)


def test_drawn_arrays_are_made_again_where_the_code_changed(tmp_path, code):
    code("aaaa")
    assert cached_arrays(tmp_path, {"a": 1}, lambda: {"x": np.zeros(2)}, DRAWN)["x"].tolist() == [0, 0]
    assert cached_arrays(tmp_path, {"a": 1}, lambda: {"x": np.ones(2)}, DRAWN)["x"].tolist() == [0, 0]
    code("bbbb")
    assert cached_arrays(tmp_path, {"a": 1}, lambda: {"x": np.ones(2)}, DRAWN)["x"].tolist() == [1, 1]
