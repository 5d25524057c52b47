"""Files are whole or absent."""

import json
import os

import numpy as np
import pytest

from fisherscope.core import store
from fisherscope.core.errors import DataError, ModelError


def test_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    store.write_json(path, {"a": 1})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        store.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_written_files_are_readable_by_others(tmp_path):
    path = tmp_path / "a.json"
    store.write_json(path, 1)
    reference = tmp_path / "b"
    reference.write_text("")
    assert path.stat().st_mode == reference.stat().st_mode


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError):
        store.write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_arrays_round_trip_with_their_card(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"x": np.arange(6.0).reshape(2, 3).T, "scalar": np.array(1.5), "k": np.array([2**64 - 1], np.uint64)}
    store.write_arrays(path, arrays, {"c": [1, "two"]})
    read, card = store.read_arrays(path)
    assert card == {"c": [1, "two"]}
    for name, value in arrays.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype


@pytest.mark.parametrize("content", [b"", b"abc", b"\x10" * 100])
def test_a_broken_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="truncated or not a safetensors file"):
        store.read_arrays(path, ModelError)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    store.write_arrays(path, {"x": np.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"a\.safetensors is truncated"):
        store.read_arrays(path)


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        store.read_arrays(tmp_path / "no")
    with pytest.raises(DataError, match="does not exist"):
        store.read_json(tmp_path / "no")


def test_folder_is_replaced_only_when_the_block_ends(tmp_path):
    folder = tmp_path / "f"
    with store.atomic_folder(folder) as temporary:
        (temporary / "a").write_text("1")
        assert not folder.exists()

    def fail():
        with store.atomic_folder(folder) as temporary:
            (temporary / "b").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in folder.iterdir()] == ["a"]
    with store.atomic_folder(folder) as temporary:
        (temporary / "c").write_text("3")
    assert [p.name for p in folder.iterdir()] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
