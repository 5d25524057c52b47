"""Files are whole or absent."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    store.write_arrays(path, {"x": np.arange(8.0), "none": np.empty((0, 3))}, {"kind": "it"})
    whole = path.read_bytes()
    for place in (-1, -20, -40, whole.index(b'"x"') + 1, whole.index(b"kind") - 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.safetensors is (damaged|truncated)"):
            store.read_arrays(path)
    path.write_bytes(whole)
    assert store.read_arrays(path)[0]["none"].shape == (0, 3)


def test_links_stay_and_pipes_are_written_to(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    store.write_json(tmp_path / "link", [1])
    assert (tmp_path / "link").is_symlink() and store.read_json(tmp_path / "target") == [1]
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        store.write_json(tmp_path / "pipe", [2])
        assert json.loads(read.result(10)) == [2]
    assert (tmp_path / "pipe").is_fifo()


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        store.read_arrays(tmp_path / "no")
    with pytest.raises(DataError, match="does not exist"):
        store.read_json(tmp_path / "no")


def write_folder(folder, files):
    with store.atomic_folder(folder, "head") as temporary:
        for name, text in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(text)


def contents(folder):
    files = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
    return {name: text for name, text in files.items() if not name.endswith(".head.files")}


def test_a_folder_changes_only_when_the_block_ends(tmp_path):
    folder = tmp_path / "f"
    with store.atomic_folder(folder, "head") as temporary:
        (temporary / "head").write_text("1")
        assert not folder.exists()
    reference = tmp_path / "reference"
    reference.mkdir()
    assert folder.stat().st_mode == reference.stat().st_mode
    for existing in (folder, tmp_path / "absent"):
        before = contents(tmp_path)

        def fail(path=existing):
            with store.atomic_folder(path, "head") as temporary:
                (temporary / "head").write_text("2")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert contents(tmp_path) == before == {"f/head": "1"}


def test_files_that_are_not_the_folders_own_stay(tmp_path):
    folder = tmp_path / "f"
    write_folder(folder, {"head": "1", "parts/a": "1", "parts/b": "1"})
    (folder / "notes.txt").write_text("mine")
    (folder / "parts" / "mine.txt").write_text("mine")
    write_folder(folder, {"head": "2", "parts/b": "2"})
    expected = {"head": "2", "parts/b": "2", "notes.txt": "mine", "parts/mine.txt": "mine"}
    assert contents(folder) == expected and [p.name for p in tmp_path.iterdir()] == ["f"]
    assert {p.name for p in folder.iterdir()} == {"head", ".head.files", "parts", "notes.txt"}


@pytest.mark.parametrize("listed", [None, "no list", '["../other", "/other", "parts/mine"]'])
def test_a_file_of_the_users_whose_name_is_needed_is_kept(tmp_path, caplog, listed):
    folder = tmp_path / "f"
    folder.mkdir()
    (tmp_path / "other").write_text("mine")
    (folder / "head").write_text("mine")
    if listed is not None:
        (folder / ".head.files").write_text(listed)
    for kept in ("head.before", "head.before1"):
        write_folder(folder, {"head": "1"})
        assert contents(folder)[kept] == "mine" and (tmp_path / "other").read_text() == "mine"
        assert caplog.records[-1].getMessage().endswith(f"f/head was not written by an earlier run: kept as {kept}")
        (folder / ".head.files").unlink()
        (folder / "head").write_text("mine")


@pytest.mark.parametrize("fails_at", range(7))
def test_a_failed_exchange_is_undone(tmp_path, monkeypatch, fails_at):
    folder = tmp_path / "f"
    write_folder(folder, {"head": "1", "parts/a": "1", "parts/b": "1"})
    before, moved, rename = contents(folder), [], Path.rename

    def failing(source, destination):
        if len(moved) == fails_at and source not in [d for _, d in moved]:
            raise KeyboardInterrupt
        moved.append((source, destination))
        return rename(source, destination)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, {"head": "2", "parts/b": "2"})
    assert contents(folder) == before


def test_a_killed_exchange_leaves_no_head_beside_files_of_another(tmp_path, monkeypatch):
    seen, rename = [], Path.rename

    def watched(source, destination):
        rename(source, destination)
        found = contents(tmp_path / "f")
        seen.append({found[name] for name in ("head", "parts/a") if name in found} if "head" in found else set())

    write_folder(tmp_path / "f", {"head": "1", "parts/a": "1"})
    monkeypatch.setattr(Path, "rename", watched)
    write_folder(tmp_path / "f", {"head": "2", "parts/a": "2"})
    assert seen == [set(), set(), set(), set(), set(), {"2"}]
