"""The waist: what goes in comes out, and what does not fit is named."""

from dataclasses import replace

import numpy as np
import pytest

from fisherscope.core.errors import CardMismatchError, DataError
from fisherscope.core.table import Card, FeatureTable

CARD = Card("m" * 32, "glow", "d" * 32, "digits", 2, 0, "float32", {"blocks": ["grad_norm"]})


def make(n=4, card=CARD, seed=0):
    rng = np.random.default_rng(seed)
    return FeatureTable(
        blocks={
            "grad_norm": rng.random((n, 3)),
            "log_p": rng.random((n, 2)),
            "pixels": np.zeros((n, 2, 1, 2, 2), np.uint8),
        },
        columns={"grad_norm": ("a", "b", "c")},
        ids=tuple((f"{i}a", f"{i}b") for i in range(n)),
        keys=rng.integers(0, 2**63, (n, 2)).astype(np.uint64),
        card=card,
    )


def test_save_and_load_are_bit_equal(tmp_path):
    table = make()
    table.save(tmp_path / "t.safetensors")
    loaded = FeatureTable.load(tmp_path / "t.safetensors")
    assert (loaded.card, loaded.ids, loaded.columns) == (table.card, table.ids, table.columns)
    for name, block in table.blocks.items():
        np.testing.assert_array_equal(loaded.blocks[name], block)
        assert loaded.blocks[name].dtype == block.dtype
    np.testing.assert_array_equal(loaded.keys, table.keys)


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "x"), ("group_size", 1), ("seed", 5), ("dtype", "float64"), ("settings", {}), ("format_version", 9)],
)
def test_card_mismatch_names_the_field(field, value):
    with pytest.raises(CardMismatchError, match=f"'{field}'") as caught:
        CARD.require_same(replace(CARD, **{field: value}))
    assert caught.value.field == field


def test_names_are_not_compared_and_data_only_when_asked():
    other = replace(CARD, model_name="x", data_name="y", data="z")
    CARD.require_same(other)
    with pytest.raises(CardMismatchError, match="'data'"):
        CARD.require_same(other, data=True)


def test_digest_changes_with_every_field():
    others = [replace(CARD, **{k: v}) for k, v in (("model", "x"), ("seed", 1), ("data", "x"), ("settings", {"a": 1}))]
    assert len({CARD.digest(), *(c.digest() for c in others)}) == 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_refused_and_its_sample_named(bad):
    table = make()
    norms = table.blocks["grad_norm"].copy()
    norms[2, 1] = bad
    with pytest.raises(DataError, match=r"'grad_norm' holds NaN or inf for \(2a, 2b\); look"):
        replace(table, blocks={"grad_norm": norms})


def test_shapes_must_agree():
    table = make()
    with pytest.raises(DataError, match="keys have shape"):
        replace(table, keys=table.keys[:, :1])
    with pytest.raises(DataError, match="block 'log_p' has shape"):
        replace(table, blocks={"log_p": np.zeros(4)})
    with pytest.raises(DataError, match="2 columns but 3 column names"):
        replace(table, blocks={"grad_norm": np.zeros((4, 2))})


def test_select_and_concatenate():
    table = make()
    both = FeatureTable.concatenate([table.select(slice(2, 4)), table.select([0, 1])])
    np.testing.assert_array_equal(both.blocks["grad_norm"], table.blocks["grad_norm"][[2, 3, 0, 1]])
    assert both.ids == tuple(table.ids[i] for i in (2, 3, 0, 1))
    with pytest.raises(CardMismatchError, match="'seed'"):
        FeatureTable.concatenate([table, make(card=replace(CARD, seed=1))])
    with pytest.raises(CardMismatchError, match="expected '3 columns, column 1 b', found '3 columns, column 1 z'"):
        FeatureTable.concatenate([table, replace(table, columns={"grad_norm": ("a", "z", "c")})])
    with pytest.raises(CardMismatchError, match="found '0 columns'"):
        FeatureTable.concatenate([table, replace(table, columns={})])


def test_unknown_block_lists_the_known_ones():
    with pytest.raises(DataError, match=r"no block 'sketch', only .*grad_norm"):
        make().block("sketch")


def test_a_file_of_another_format_version_is_refused(tmp_path):
    table = make(card=replace(CARD, format_version=99))
    table.save(tmp_path / "t.safetensors")
    with pytest.raises(CardMismatchError, match="format_version"):
        FeatureTable.load(tmp_path / "t.safetensors")
