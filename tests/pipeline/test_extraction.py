"""Feature tables do not depend on how they were made, and interrupted work goes on."""

import numpy as np
import pytest
import torch

from fisherscope.core.errors import CardMismatchError, DataError
from fisherscope.core.table import FeatureTable
from fisherscope.pipeline import extraction
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.extraction import ExtractSettings, extract_table
from fisherscope.pipeline.target import Target

BLOCKS = ("grad_norm", "log_p", "pixels")


@pytest.mark.parametrize("group_size", [1, 5])
def test_batched_equals_loop(make_glow, digits, group_size):
    target = Target(make_glow(torch.float64), None, "glow")
    data = as_batches(digits.select(range(10)), target)
    fast = extract_table(target, data, BLOCKS, ExtractSettings(group_size))
    slow = extract_table(target, data, BLOCKS, ExtractSettings(group_size, method="loop"))
    np.testing.assert_allclose(fast.block("grad_norm"), slow.block("grad_norm"), rtol=1e-10)
    np.testing.assert_allclose(fast.block("log_p"), slow.block("log_p"), rtol=1e-12)
    assert fast.columns["grad_norm"] == tuple(n for n, _ in target.module.named_parameters())
    assert fast.block("pixels").shape == (10 // group_size, group_size, 1, 8, 8)


def test_features_do_not_depend_on_batch_size_or_order(make_glow, digits, monkeypatch):
    target = Target(make_glow(torch.float64), None, "glow")
    data = as_batches(digits.select(range(30)), target)
    whole = extract_table(target, data, BLOCKS)
    order = np.random.default_rng(0).permutation(30)
    shuffled = extract_table(target, data.select(order), BLOCKS)
    monkeypatch.setattr(extraction, "_BATCH", 7)
    small = extract_table(target, data, BLOCKS)
    for name in ("grad_norm", "log_p"):
        np.testing.assert_allclose(shuffled.block(name), whole.block(name)[order], rtol=1e-10)
        np.testing.assert_allclose(small.block(name), whole.block(name), rtol=1e-10)


def test_features_in_float32_move_little_with_the_batch(target, digits, monkeypatch):
    data = as_batches(digits.select(range(60)), target)
    whole = extract_table(target, data).block("grad_norm")
    assert (extract_table(target, data).block("grad_norm") == whole).all()
    monkeypatch.setattr(extraction, "_BATCH", 7)
    small = extract_table(target, data).block("grad_norm")
    assert np.median(np.abs(small - whole) / whole) < 1e-5


class Represented(torch.nn.Module):
    """The same model of data in another representation y = 40 sinh(x / 50): log p(y) = log p(x) - log|dy/dx|."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def log_prob(self, y, *, seed=0, keys=None):
        x = 50 * torch.asinh(y / 40)
        log_det = (0.8 * torch.cosh(x / 50)).log().flatten(1).sum(1)
        return self.model.log_prob(x, seed=seed, keys=keys) - log_det


def test_an_invertible_preprocessing_moves_log_p_but_no_gradient_norm(make_glow, digits):
    glow = make_glow(torch.float64)
    data = as_batches(digits.select(range(20)))
    plain = extract_table(Target(glow, None, "x"), data)
    y = 40 * np.sinh(data.x.astype(np.float64) / 50)
    moved = as_batches(y)
    # The noise follows the ORIGINAL samples: their keys travel with the transformed copies.
    moved = type(moved)(moved.x, data.ids, data.keys, "y")
    other = extract_table(Target(Represented(glow), None, "y"), moved)
    np.testing.assert_allclose(other.block("grad_norm"), plain.block("grad_norm"), rtol=1e-8)
    assert np.abs(other.block("log_p") - plain.block("log_p")).min() > 1.0


def test_interrupted_extraction_goes_on_and_gives_the_same_table(target, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_BATCH", 10)
    monkeypatch.setattr(extraction, "_BATCHES_PER_SHARD", 2)
    data = as_batches(digits.select(range(50)), target)
    out = tmp_path / "t.safetensors"

    def stop_at_30(done, total):
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_table(target, data, out=out, report=stop_at_30)
    assert not out.exists()
    assert [p.name for p in (tmp_path / "t.safetensors.parts").iterdir()] == ["00000000.safetensors"]
    seen = []
    table = extract_table(target, data, out=out, report=lambda done, total: seen.append(done))
    assert seen == [30, 40, 50]
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
    np.testing.assert_array_equal(FeatureTable.load(out).block("grad_norm"), table.block("grad_norm"))
    np.testing.assert_array_equal(extract_table(target, data).block("grad_norm"), table.block("grad_norm"))


def test_a_table_of_another_model_is_named(target, make_glow, digits, tmp_path):
    data = as_batches(digits.select(range(10)), target)
    out = tmp_path / "t.safetensors"
    extract_table(target, data, out=out)
    other = Target(make_glow(hidden=4), None, "other")
    with pytest.raises(CardMismatchError, match="'model'"):
        extract_table(other, data, out=out)
    with pytest.raises(CardMismatchError, match="'seed'"):
        extract_table(target, data, settings=ExtractSettings(seed=1), out=out)
    with pytest.raises(CardMismatchError, match="'data'"):
        extract_table(target, data.select(range(5)), out=out)


def test_groups(target, digits):
    data = as_batches(digits.select(range(13)), target)
    table = extract_table(target, data, BLOCKS, ExtractSettings(5))
    assert len(table) == 2
    assert table.ids[1] == digits.ids[5:10]
    with pytest.raises(DataError, match=r"a group of 50 was asked for, but digits.* has only 13 samples"):
        extract_table(target, data, BLOCKS, ExtractSettings(50))
