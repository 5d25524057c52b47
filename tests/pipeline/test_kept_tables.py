"""Features are taken from whatever kept tables hold them; only what no table holds is extracted."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from fisherscope.core import package_code
from fisherscope.core.keys import sample_keys
from fisherscope.features.metrics import SketchSettings
from fisherscope.pipeline import extraction, kept_tables
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.extraction import ExtractSettings, extract_table, fit_metrics_on
from fisherscope.pipeline.fitting import fit
from fisherscope.pipeline.guard_files import load
from fisherscope.pipeline.kept_tables import kept_table
from fisherscope.pipeline.target import Target

LARGE = ("grad_norm", "log_p", "sketch", "pixels")


@pytest.fixture
def data(target, digits):
    return as_batches(digits.select(range(20)), target)


@pytest.fixture
def extracted(monkeypatch):
    """The blocks of every extraction, in order."""
    asked = []
    real = extraction.extract_table

    def extract(target, data, blocks, *arguments, **settings):
        asked.append(set(blocks))
        return real(target, data, blocks, *arguments, **settings)

    monkeypatch.setattr(kept_tables, "extract_table", extract)
    return asked


def require_same(found, made):
    assert found.card == made.card and found.ids == made.ids and found.columns == made.columns
    assert found.blocks.keys() == made.blocks.keys()
    for name, block in made.blocks.items():
        # round-off depends on what else is in a batch
        atol = 1e-5 * np.abs(block).max()
        np.testing.assert_allclose(found.block(name), block, rtol=1e-6, atol=atol, err_msg=name)
    np.testing.assert_array_equal(found.keys, made.keys)


def test_a_larger_table_serves_a_smaller_one_and_a_larger_one_takes_what_there_is(target, data, tmp_path, extracted):
    settings = ExtractSettings(2)
    require_same(kept_table(tmp_path, target, data, LARGE, settings), extract_table(target, data, LARGE, settings))
    for blocks in (("grad_norm",), ("log_p",), ("sketch", "pixels")):
        require_same(
            kept_table(tmp_path, target, data, blocks, settings), extract_table(target, data, blocks, settings)
        )
    assert extracted == [set(LARGE)]
    more = ("grad_norm", "code_length", "pixels")
    for _ in range(2):
        require_same(kept_table(tmp_path, target, data, more, settings), extract_table(target, data, more, settings))
    assert extracted == [set(LARGE), {"code_length"}]


@pytest.mark.parametrize(
    "other", [ExtractSettings(1), ExtractSettings(2, seed=1), ExtractSettings(2, sketch=SketchSettings(size=64))]
)
def test_tables_of_other_settings_are_not_taken(target, data, tmp_path, extracted, other):
    kept_table(tmp_path, target, data, LARGE, ExtractSettings(2, sketch=SketchSettings(size=32)))
    found = kept_table(tmp_path, target, data, ("sketch", "grad_norm"), other)
    assert len(extracted) == 2
    require_same(found, extract_table(target, data, ("sketch", "grad_norm"), other))


def test_blocks_of_single_samples_serve_other_groups_and_orders(target, data, tmp_path, extracted):
    blocks = ("grad_norm", "log_p", "sketch", "pixels", "code_length")
    kept_table(tmp_path, target, data, blocks, ExtractSettings())
    order = np.random.default_rng(0).permutation(20)[:17]
    other, settings = data.select(order), ExtractSettings(5)
    found = kept_table(tmp_path, target, other, blocks, settings)
    # what is of whole groups is extracted, with the log p that comes of the same pass
    assert extracted[1:] == [{"grad_norm"}] and len(found) == 3
    require_same(found, extract_table(target, other, blocks, settings))


def test_the_size_of_sketches_concerns_only_sketches(target, data, tmp_path, extracted):
    kept_table(tmp_path, target, data, LARGE, ExtractSettings(sketch=SketchSettings(size=32)))
    settings = ExtractSettings(sketch=SketchSettings(size=64))
    found = kept_table(tmp_path, target, data, LARGE, settings)
    assert extracted == [set(LARGE), {"sketch"}]
    require_same(found, extract_table(target, data, LARGE, settings))


def test_tables_of_other_samples_are_not_taken(target, data, tmp_path, extracted):
    kept_table(tmp_path, target, data.select(range(1, 20)), LARGE, ExtractSettings())
    kept_table(tmp_path, target, data, ("log_p",), ExtractSettings())
    # copies keep the keys, and with them the noise, of their samples
    copies = replace(data, x=255 - data.x, name="negatives")
    found = kept_table(tmp_path, target, copies, ("log_p",), ExtractSettings())
    assert len(extracted) == 3
    require_same(found, extract_table(target, copies, ("log_p",)))


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_tables_of_samples_of_another_kind_are_not_taken(target, data, tmp_path, extracted, kind):
    blocks, settings = ("code_length", "predictive_length", "pixels"), ExtractSettings()
    kept_table(tmp_path, target, data, blocks, settings)
    other = replace(data, x=data.x.astype(kind))
    np.testing.assert_array_equal(other.keys, sample_keys(other.x))  # equal by design
    found = kept_table(tmp_path, target, other, blocks, settings)
    assert len(extracted) == 2
    require_same(found, extract_table(target, other, blocks, settings))
    assert found.block("pixels").dtype == kind
    if kind == np.float32:
        assert not found.block("code_length").any()
    for again in (data, other):
        kept_table(tmp_path, target, again, blocks, settings)
    assert len(extracted) == 2


def test_a_block_in_the_metric_of_another_fit_is_not_taken(target, data, tmp_path, extracted):
    blocks, settings = ("metric:diagonal", "grad_norm"), ExtractSettings()
    fits = [fit_metrics_on(target, data.select(rows), ("diagonal",)) for rows in (range(10), range(10, 20))]
    tables = [kept_table(tmp_path, target, data, blocks, settings, metrics=metrics) for metrics in fits]
    assert extracted == [set(blocks) | {"log_p"}, {"metric:diagonal"}]
    for table, metrics in zip(tables, fits, strict=True):
        require_same(table, extract_table(target, data, blocks, settings, metrics=metrics))
    assert not np.allclose(tables[0].block("metric:diagonal"), tables[1].block("metric:diagonal"), rtol=1e-3)


def test_files_of_other_kinds_are_left_alone(target, data, tmp_path, extracted):
    ending = kept_tables.file_ending(kept_tables.FEATURES)
    (tmp_path / f"broken{ending}").write_bytes(b"no table")
    kept_table(tmp_path, target, data, ("log_p",), ExtractSettings())
    kept_table(tmp_path, target, data, ("log_p",), ExtractSettings())
    assert len(extracted) == 1 and (tmp_path / f"broken{ending}").read_bytes() == b"no table"


def test_a_table_with_damaged_arrays_is_made_again(target, data, tmp_path, extracted):
    ending = kept_tables.file_ending(kept_tables.FEATURES)
    kept_table(tmp_path, target, data, ("log_p", "pixels"), ExtractSettings())
    (path,) = tmp_path.glob(f"*{ending}")
    damaged = bytearray(path.read_bytes())
    damaged[-8:] = bytes(8)
    (tmp_path / f"a{ending}").write_bytes(damaged)
    path.unlink()
    table = kept_table(tmp_path, target, data, ("log_p",), ExtractSettings())
    require_same(table, extract_table(target, data, ("log_p",), ExtractSettings()))
    assert extracted == [{"log_p", "pixels"}, {"log_p"}]
    path.write_bytes(damaged)
    both = kept_table(tmp_path, target, data, ("log_p", "pixels"), ExtractSettings())
    require_same(both, extract_table(target, data, ("log_p", "pixels"), ExtractSettings()))


def test_tables_of_a_log_prob_that_has_changed_are_not_taken(digits, tmp_path, extracted, monkeypatch):
    monkeypatch.setattr(package_code, "_digest_behind", package_code._digest_behind.__wrapped__)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_log_prob_that_changes.py"
    for sign, times in (("", 1), ("", 1), ("-", 2)):
        file.write_text(f"def log_prob(module, x):\n    return {sign}module(x.flatten(1))[:, 0]\n")
        module = importlib.import_module("own_log_prob_that_changes")
        own = Target(torch.nn.Linear(64, 1), module.log_prob, "own")
        torch.nn.init.ones_(own.module.weight)
        torch.nn.init.zeros_(own.module.bias)
        kept_table(tmp_path, own, as_batches(digits.select(range(6))), ("log_p",), ExtractSettings())
        assert len(extracted) == times


def test_a_guard_says_that_the_code_of_the_model_has_changed(digits, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(package_code, "_digest_behind", package_code._digest_behind.__wrapped__)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_log_prob_of_a_guard.py"
    file.write_text("def log_prob(module, x):\n    return module(x.flatten(1))[:, 0]\n")
    log_prob, model = importlib.import_module("own_log_prob_of_a_guard").log_prob, torch.nn.Linear(64, 1)
    fit(model, digits.x[:60], log_prob=log_prob, detector="likelihood", fpr=0.1).save(tmp_path / "guard")
    load(tmp_path / "guard", model, log_prob)
    assert not caplog.records
    file.write_text(file.read_text().replace("return ", "return -"))
    load(tmp_path / "guard", model, log_prob)
    assert "the code of Linear, of its log_prob or of a metric is not that of the fit" in caplog.text
