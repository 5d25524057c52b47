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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("00000-of-00002", "00000-of-00002 (1)"),
            r"one shard of split 'train' as train-00000-of-00002 \(1\)\.parquet, ",
        ),
        (("00000-of-00001-a0", "00000-of-00001-b1"), "one shard of split 'train' as"),
        (("00000-of-00002", "00001-of-00003"), "mixes the files .* of split 'train', expected shards 0 to N - 1"),
        (("00000-of-00001", "00001-of-00001"), "mixes the files"),
        (("00001-of-00002", "00002-of-00002"), "mixes the files"),
        (("00000-of-00001", "extra"), "mixes the files"),
        (("00000-of-00003", "00002-of-00003"), r"2 of 3 shards of split 'train' \(shard 1 is the first"),
    ],
)
def test_shards_of_one_split_are_those_of_one_set(tmp_path, names, message):
    for name in names:
        (tmp_path / f"train-{name}.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        shards(tmp_path, "train")


def test_what_stands_around_the_numbers_of_shards_is_free(tmp_path):
    names = {"train-0-of-2.parquet", "train-1-of-2-0c1f.parquet", "test-full-00000-of-00001.parquet", "val-a.parquet"}
    for name in names | {"val-b.parquet"}:
        (tmp_path / name).write_bytes(b"")
    assert [len(shards(tmp_path, split)) for split in ("train", "test", "val")] == [2, 1, 2]


def test_folder_without_shards_has_no_splits(root):
    assert split_files(root / "c") == {}
    assert split_files(root / "absent") == {}


def test_a_named_file_lies_below_the_root(root):
    assert named_file(root, "c/x.txt") == root / "c" / "x.txt"
    for name in ("c/y.txt", "README.md", "c", "../" + root.name + "/c/x.txt", str(root / "c" / "x.txt")):
        assert named_file(root, name) is None
