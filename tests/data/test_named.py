from __future__ import annotations

import pytest

from fisherscope.core.errors import DataError
from fisherscope.data.named import find_root, list_sets, named_file, shards, split_files


@pytest.fixture
def root(tmp_path):
    for name in ("b/train-00000-of-00001.parquet", "b/test-00000-of-00001.parquet", "a/test-part.parquet", "c/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "README.md").write_text("x")
    return tmp_path


def test_sets_and_splits_are_listed(root, monkeypatch):
    expected = {"a": ("test",), "b": ("test", "train"), "c/x.txt": ("test", "train")}
    assert list_sets(root) == expected
    assert list_sets() == {}
    monkeypatch.setenv("FISHERSCOPE_DATA", str(root))
    assert list_sets() == expected


def test_missing_root_says_where_it_came_from(tmp_path, monkeypatch):
    assert find_root() is None
    with pytest.raises(DataError, match=r"nowhere \(from --data-root\) is not a folder"):
        find_root(tmp_path / "nowhere")
    monkeypatch.setenv("FISHERSCOPE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere \(from FISHERSCOPE_DATA\) is not a folder"):
        find_root()


def test_shards_are_sorted_and_complete(tmp_path):
    for i in (2, 0, 1):
        (tmp_path / f"train-0000{i}-of-00003.parquet").write_bytes(b"")
    assert [p.name[:11] for p in shards(tmp_path, "train")] == ["train-00000", "train-00001", "train-00002"]
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match="2 of 3 shards of split 'train'"):
        shards(tmp_path, "train")
    with pytest.raises(DataError, match=r"no split 'val', only \['train'\]"):
        shards(tmp_path, "val")


def test_folder_without_shards_has_no_splits(root):
    assert split_files(root / "c") == {}
    assert split_files(root / "absent") == {}


def test_a_named_file_lies_below_the_root(root):
    assert named_file(root, "c/x.txt") == root / "c" / "x.txt"
    for name in ("c/y.txt", "README.md", "c", "../" + root.name + "/c/x.txt", str(root / "c" / "x.txt")):
        assert named_file(root, name) is None
