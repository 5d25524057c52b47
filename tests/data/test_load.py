from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fisherscope.core.errors import DataError, SettingError
from fisherscope.data import ReadOptions, has_samples, load_samples
from fisherscope.data import load as load_module


@pytest.fixture
def root(tmp_path):
    """A data root with the set ``tiny``: 6 train and 4 test images."""
    pa = pytest.importorskip("pyarrow", reason="Parquet needs fisherscope[data]")
    from pyarrow import parquet

    folder = tmp_path / "root" / "tiny"
    folder.mkdir(parents=True)
    for split, count in (("train", 6), ("test", 4)):
        rows = []
        for i in range(count):
            buffer = io.BytesIO()
            Image.fromarray(np.full((4, 4), 10 * i + count, np.uint8)).save(buffer, "PNG")
            rows.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
        parquet.write_table(pa.table({"image": rows}), folder / f"{split}-00000-of-00001.parquet")
    return tmp_path / "root"


def test_splits_of_a_named_set(root, monkeypatch):
    test = load_samples("tiny", data_root=root)
    assert (len(test), test.name) == (4, "tiny[test]")
    for train in (
        load_samples("tiny[train]", data_root=root),
        load_samples("tiny", split="train", data_root=root),
        load_samples("tiny[train]", split="train", data_root=root),
        load_samples("tiny", default_split="train", data_root=root),
    ):
        assert (len(train), train.name) == (6, "tiny[train]")
    monkeypatch.setenv("FISHERSCOPE_DATA", str(root))
    assert load_samples("tiny").fingerprint == test.fingerprint
    assert len(load_samples("tiny[test]", default_split="train")) == 4


def test_contradicting_splits_are_refused(root):
    with pytest.raises(SettingError, match=r"'tiny\[train\]' asks for split 'train' but --split for 'test'"):
        load_samples("tiny[train]", split="test", data_root=root)
    with pytest.raises(SettingError, match="data in memory"):
        load_samples(np.zeros((2, 4, 4), np.uint8), split="test")


def test_a_set_is_also_read_by_its_path(root):
    assert (
        load_samples(root / "tiny", split="train").fingerprint
        == load_samples("tiny[train]", data_root=root).fingerprint
    )
    assert len(load_samples(f"{root}/tiny[train]")) == 6
    single = load_samples(root / "tiny" / "test-00000-of-00001.parquet")
    assert len(single) == 4
    with pytest.raises(DataError, match="single file without splits"):
        load_samples(root / "tiny" / "test-00000-of-00001.parquet", split="test")


def test_folder_of_images_with_and_without_splits(save_image, tmp_path):
    for seed, name in enumerate(["p/train/1.png", "p/test/2.png", "p/test/3.png", "q/4.png"]):
        save_image(name, seed=seed)
    assert load_samples(tmp_path / "q").ids == ("4.png",)
    assert load_samples(tmp_path / "q").name == str(tmp_path / "q")
    assert load_samples(f"{tmp_path}/p").ids == ("2.png", "3.png")
    assert load_samples(f"{tmp_path}/p[train]").ids == ("1.png",)
    assert load_samples(tmp_path / "p").name == f"{tmp_path}/p[test]"
    with pytest.raises(DataError, match=r"no split 'val': its subfolders are \['test', 'train'\]"):
        load_samples(tmp_path / "p", split="val")


def test_a_path_with_brackets_is_taken_literally(save_image, tmp_path):
    save_image("shots[1]/a.png")
    assert load_samples(f"{tmp_path}/shots[1]").ids == ("a.png",)


def test_arrays_in_files_and_memory(tmp_path):
    x = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", x=x, y=x[:2])
    loaded = load_samples(tmp_path / "x.npy")
    assert np.array_equal(loaded.x[:, 0], x)
    assert len(load_samples(f"{tmp_path}/xy.npz[y]")) == 2
    assert len(load_samples(tmp_path / "xy.npz", split="y")) == 2
    assert np.array_equal(load_samples(x).keys, loaded.keys)
    assert load_samples(x).ids == ("array[0]", "array[1]", "array[2]")


def test_samples_pass_through_with_limit_and_resize():
    samples = load_samples("digits", limit=10, seed=4)
    assert load_samples(samples).fingerprint == samples.fingerprint
    small = load_samples(samples, limit=3, seed=5)
    assert small.ids == tuple(samples.ids[i] for i in ReadOptions(limit=3, seed=5).rows(10))
    large = load_samples(samples, resize=(3, 16, 16))
    assert large.shape == (3, 16, 16) and large.ids == samples.ids
    assert not np.array_equal(large.keys, samples.keys)
    with pytest.raises(DataError, match="only uint8 images can be resized"):
        load_samples(load_samples(np.zeros((3, 4))), resize=(1, 4, 4))


def test_named_sets_come_before_bundled_ones_and_paths_before_both(root, save_image, monkeypatch, tmp_path):
    assert len(load_samples("digits")) == 599
    (root / "tiny").rename(root / "digits")
    assert len(load_samples("digits", data_root=root)) == 4
    save_image("digits/one.png")
    monkeypatch.chdir(tmp_path)
    assert load_samples("digits", data_root=root).ids == ("one.png",)


@pytest.mark.parametrize("spec", ["gone.npy", "gone.png", "/gone/folder", "./gone", "~/gone-folder"])
def test_missing_files(spec):
    with pytest.raises(DataError, match=r"gone.* does not exist"):
        load_samples(spec)


def test_unknown_name_lists_what_was_tried(root):
    with pytest.raises(DataError) as error:
        load_samples("cats", data_root=root)
    message = str(error.value)
    assert "\n" not in message
    for part in ("'cats'", f"sets under {root}: tiny", "texture-patches", "FISHERSCOPE_DATA", "owner/name"):
        assert part in message
    with pytest.raises(DataError, match="FISHERSCOPE_DATA is not set"):
        load_samples("cats")


def test_a_bare_name_never_reaches_the_hub(monkeypatch):
    monkeypatch.setattr(load_module, "read_hub", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="no readable hub set"):
        load_samples("cats")


def test_a_mistyped_path_never_reaches_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(load_module, "read_hub", lambda *_: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday").mkdir()
    with pytest.raises(DataError, match="holiday/picturs does not exist, though holiday does"):
        load_samples("holiday/picturs")


def test_a_hub_failure_keeps_the_list_and_adds_its_reason(monkeypatch):
    def fail(*_args):
        raise DataError("the hub cannot be reached")

    monkeypatch.setattr(load_module, "read_hub", fail)
    with pytest.raises(DataError, match=r"'own/er' is no file .* bundled set .*; the hub cannot be reached"):
        load_samples("own/er")


def test_unusable_files_and_options(save_image):
    with pytest.raises(DataError, match="name is empty"):
        load_samples("")
    with pytest.raises(DataError, match=r"ending in '.png', expected a folder"):
        load_samples(save_image("one.png"))
    with pytest.raises(SettingError, match="limit is 0"):
        load_samples("digits", limit=0)
    with pytest.raises(DataError, match="no split 'val'"):
        load_samples("digits[val]")


def test_it_is_known_whether_a_set_is_there(root, tmp_path, monkeypatch):
    monkeypatch.delenv("FISHERSCOPE_DATA", raising=False)
    assert has_samples("tiny", root) and has_samples("tiny[train]", root) and has_samples("digits")
    assert has_samples(str(tmp_path)) and has_samples("owner/name")
    assert not has_samples("tiny") and not has_samples("svhn", root)
