from __future__ import annotations

import os

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.core.keys import sample_keys
from fisherscope.data.folders import read_folder
from fisherscope.data.samples import ReadOptions


def test_images_are_read_recursively_in_order_of_relative_path(save_image, tmp_path):
    for seed, name in enumerate(["b.png", "a/z.PNG", "a/c.bmp", ".hidden/x.png", "a/.y.png"]):
        save_image(name, seed=seed)
    (tmp_path / "notes.txt").write_text("ignored")
    samples = read_folder(tmp_path, "pictures")
    assert samples.ids == ("a/c.bmp", "a/z.PNG", "b.png")
    assert samples.x.shape == (3, 3, 6, 8)
    assert np.array_equal(samples.keys, sample_keys(samples.x))
    assert samples.name == "pictures"
    assert samples.labels is None and samples.clusters is None


def test_empty_folder_says_what_was_found(tmp_path):
    with pytest.raises(DataError, match=r"holds no images \(no files\)"):
        read_folder(tmp_path, "x")
    for name in ("a.txt", "b.txt", "c.csv", "README"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"\(2 x .txt, 1 x .csv, 1 x no suffix\)|1 x no suffix, 1 x .csv\)"):
        read_folder(tmp_path, "x")


def test_images_of_other_suffixes_are_counted(save_image, tmp_path, caplog):
    for name in ("a.png", "b.png", "c.png"):
        save_image(name)
    read_folder(tmp_path, "x")
    assert not caplog.records
    (tmp_path / "b.png").rename(tmp_path / "b.heic")
    (tmp_path / "c.png").rename(tmp_path / "c.GIF")
    assert read_folder(tmp_path, "x").ids == ("a.png",)
    assert f"{tmp_path}: 2 images are left out, as files ending in .gif, .heic are not read" in caplog.text


def test_limit_draws_names_before_decoding(save_image, tmp_path):
    for i in range(10):
        save_image(f"{i}.png", seed=i)
    options = ReadOptions(limit=4, seed=3)
    chosen = read_folder(tmp_path, "x", options)
    assert chosen.ids == tuple(f"{i}.png" for i in options.rows(10))
    everything = read_folder(tmp_path, "x")
    assert np.array_equal(chosen.keys, everything.keys[options.rows(10)])


def test_a_corrupt_image_is_named_with_its_folder(save_image, tmp_path):
    save_image("cats/1.png")
    (tmp_path / "cats/2.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"cats/2\.png is corrupt"):
        read_folder(tmp_path, "x")


def test_frames_become_clusters(save_image, tmp_path):
    for name in ("t1-frame0.png", "t1-frame1.png", "t2-frame0.png"):
        save_image(name)
    assert read_folder(tmp_path, "x").clusters == ("t1", "t1", "t2")


def test_links_to_folders_are_followed_once(save_image, tmp_path):
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    save_image(folder / "a.png")
    save_image(elsewhere / "b.png")
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    assert read_folder(folder, "x").ids == ("a.png", "linked/b.png")


def test_names_of_other_encodings_can_be_written(save_image, tmp_path):
    save_image(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    assert read_folder(tmp_path, "x").ids == ("caf\\xe9.png",)
