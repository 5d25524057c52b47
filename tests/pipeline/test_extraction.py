"""Feature tables do not depend on how they were made, and interrupted work goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fisherscope.core.errors import CardMismatchError, DataError, ModelError
from fisherscope.core.table import FeatureTable
from fisherscope.pipeline import extraction
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.extraction import ExtractSettings, extract_table, fit_metrics_on
from fisherscope.pipeline.target import Target

BLOCKS = ("grad_norm", "sketch_norm", "log_p", "pixels")


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
    monkeypatch.setattr(extraction, "BATCH", 7)
    small = extract_table(target, data, BLOCKS)
    for name in ("grad_norm", "sketch_norm", "log_p"):
        np.testing.assert_allclose(shuffled.block(name), whole.block(name)[order], rtol=1e-10)
        np.testing.assert_allclose(small.block(name), whole.block(name), rtol=1e-10)


def test_features_in_float32_move_little_with_the_batch(target, digits, monkeypatch):
    data = as_batches(digits.select(range(60)), target)
    whole = extract_table(target, data).block("term_norm")
    assert (extract_table(target, data).block("term_norm") == whole).all()
    monkeypatch.setattr(extraction, "BATCH", 7)
    small = extract_table(target, data).block("term_norm")
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
    plain = extract_table(Target(glow, None, "x"), data, BLOCKS)
    y = 40 * np.sinh(data.x.astype(np.float64) / 50)
    moved = as_batches(y)
    # The noise follows the ORIGINAL samples: their keys travel with the transformed copies.
    moved = type(moved)(moved.x, data.ids, data.keys, "y")
    other = extract_table(Target(Represented(glow), None, "y"), moved, BLOCKS)
    np.testing.assert_allclose(other.block("grad_norm"), plain.block("grad_norm"), rtol=1e-8)
    assert np.abs(other.block("log_p") - plain.block("log_p")).min() > 1.0


def test_interrupted_extraction_goes_on_and_gives_the_same_table(target, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "BATCH", 10)
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
    np.testing.assert_array_equal(FeatureTable.load(out).block("term_norm"), table.block("term_norm"))
    np.testing.assert_array_equal(extract_table(target, data).block("term_norm"), table.block("term_norm"))


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
    # the keys of 8-bit samples and of their float copies are the same
    with pytest.raises(CardMismatchError, match="floating of shape"):
        extract_table(target, replace(data, x=data.x.astype(np.float32)), out=out)


def test_groups(target, digits):
    data = as_batches(digits.select(range(13)), target)
    table = extract_table(target, data, BLOCKS, ExtractSettings(5))
    assert len(table) == 2
    assert table.ids[1] == digits.ids[5:10]
    with pytest.raises(DataError, match=r"a group of 50 was asked for, but digits.* has only 13 samples"):
        extract_table(target, data, BLOCKS, ExtractSettings(50))


def squares(module, x):
    return -(x - module.weight[0]).square().sum(1)


def with_extremes(at):
    """150 samples, some so large that their squares are no float32."""
    x = np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32)
    x[at] = 1e30
    return as_batches(x).select(np.random.default_rng(1).permutation(150))


@pytest.mark.parametrize("blocks", [("log_p",), ("grad_norm",), ("statistics",)])
def test_samples_without_a_finite_log_p_are_called_by_their_names(blocks):
    target = Target(torch.nn.Linear(3, 1), squares, "m")
    with pytest.raises(ModelError, match=r"^log p of sample \[70\] is -inf; look at that sample "):
        extract_table(target, with_extremes([70]), blocks)
    with pytest.raises(ModelError, match=r"sample \[70\] is -inf"):
        fit_metrics_on(target, with_extremes([70]), ["diagonal"])


def test_of_many_samples_without_a_finite_log_p_five_are_named():
    target, data = Target(torch.nn.Linear(3, 1), squares, "m"), with_extremes(slice(0, 20))
    bad = [name for name in data.ids[: extraction.BATCH] if int(name[1:-1]) < 20]
    assert len(bad) > 5
    named = ", ".join(f"sample {name} is -inf" for name in bad[:5])
    with pytest.raises(ModelError) as caught:
        extract_table(target, data, ("log_p",))
    assert str(caught.value).startswith(f"log p of {named} and {len(bad) - 5} more; look at those samples and")


def test_samples_whose_gradient_is_not_finite_are_called_by_their_names():
    class Cliff(torch.autograd.Function):
        """x where its derivative is infinite for large x."""

        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            (x,) = context.saved_tensors
            return torch.where(x > 100, torch.inf, gradient)

    def cliff(module, x):
        return Cliff.apply(module(x)[:, 0] + x[:, 0]) / 1e3

    x = np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32)
    x[140] = 1e4
    with pytest.raises(DataError, match=r"'grad_norm' holds NaN or inf for \(\[140\]\); look"):
        extract_table(Target(torch.nn.Linear(3, 1), cliff, "m"), as_batches(x), ("grad_norm",))


def test_a_table_that_is_there_takes_the_names_that_samples_have_now(target, digits, tmp_path):
    data = as_batches(digits.select(range(6)), target)
    extract_table(target, data, ("log_p",), out=tmp_path / "t.safetensors")
    renamed = replace(data, ids=tuple(f"new{i}" for i in range(6)))
    assert extract_table(target, renamed, ("log_p",), out=tmp_path / "t.safetensors").ids[0] == ("new0",)


def test_autocast_around_a_call_changes_nothing(target, digits):
    data = as_batches(digits.select(range(6)), target)
    plain = extract_table(target, data, BLOCKS), extract_table(target, data, ("log_p",))
    with torch.autocast("cpu", torch.bfloat16):
        cast = extract_table(target, data, BLOCKS), extract_table(target, data, ("log_p",))
    for expected, found in zip(plain, cast, strict=True):
        for name, block in expected.blocks.items():
            np.testing.assert_array_equal(found.block(name), block)
