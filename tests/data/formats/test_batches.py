"""SVHN, ImageNet32, CIFAR-10 and idx files, on small files that the tests write."""

from __future__ import annotations

import gzip
import pickle
import re

import numpy as np
import pytest
from scipy.io import savemat

from fisherscope.core.errors import DataError
from fisherscope.core.keys import sample_keys
from fisherscope.data import ReadOptions, list_sets, load_samples

COUNT = 3


def images(seed: int, shape: tuple[int, ...] = (3, 32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (COUNT, *shape)).astype(np.uint8)


def write_svhn(root):
    for seed, split in enumerate(("train", "test")):
        y = np.array([[10], [1], [9 - seed]], np.uint8)
        savemat(
            root / f"{split}_32x32.mat", {"X": np.transpose(images(seed), (2, 3, 1, 0)), "y": y}, do_compression=True
        )
    return {"train": ([0], [0, 1, 9]), "test": ([1], [0, 1, 8])}


def write_pickles(root, names, first):
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        batch = {"data": images(seed).reshape(COUNT, -1), "labels": [first, first + 1, first + seed]}
        (root / name).write_bytes(pickle.dumps(batch, protocol=2))
    many = [label for seed in range(len(names) - 1) for label in (0, 1, seed)]
    last = len(names) - 1
    return {"train": (list(range(last)), many), "test": ([last], [0, 1, last])}


def write_imagenet32(root):
    truth = write_pickles(root / "Imagenet32_train", [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"], 1)
    (root / "Imagenet32_val").mkdir()
    (root / "Imagenet32_train" / "val_data").rename(root / "Imagenet32_val" / "val_data")
    return truth | {"val": truth["test"]}


def write_cifar(root):
    return write_pickles(root / "cifar-10-batches-py", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], 0)


def write_cifar_binary(root):
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = np.array([[0], [1], [seed]], np.uint8)
        (root / f"{name}.bin").write_bytes(np.hstack([labels, images(seed).reshape(COUNT, -1)]).tobytes())
    return {"train": (list(range(5)), [label for i in range(5) for label in (0, 1, i)]), "test": ([5], [0, 1, 5])}


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(root):
    for seed, stem in enumerate(("train", "t10k")):
        (root / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images(seed, (1, 28, 20))[:, 0])))
        (root / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.array([5, 0, seed], np.uint8)))
    return {"train": ([0], [5, 0, 0]), "test": ([1], [5, 0, 1])}


WRITERS = {
    "svhn": write_svhn,
    "imagenet32": write_imagenet32,
    "cifar10": write_cifar,
    "cifar10_bin": write_cifar_binary,
    "mnist": write_idx,
}


@pytest.fixture(params=WRITERS)
def packed(request, tmp_path):
    """Return (data root, name of the set, truth of each split: seeds of its images, labels)."""
    folder = tmp_path / "root" / request.param
    folder.mkdir(parents=True)
    return tmp_path / "root", request.param, WRITERS[request.param](folder)


def test_pixels_labels_keys_and_names_are_those_that_were_written(packed):
    root, name, truth = packed
    shape = (1, 28, 20) if name == "mnist" else (3, 32, 32)
    assert list_sets(root) == {name: tuple(sorted(truth))}
    for split, (seeds, labels) in truth.items():
        samples = load_samples(f"{name}[{split}]", data_root=root)
        expected = np.concatenate([images(seed, shape) for seed in seeds])
        assert samples.x.dtype == np.uint8 and np.array_equal(samples.x, expected)
        assert samples.labels is not None and samples.labels.tolist() == labels
        assert np.array_equal(samples.keys, sample_keys(expected))
        assert samples.name == f"{name}[{split}]" and samples.ids[0].endswith("#0") and samples.ids[-1].endswith("#2")
        assert load_samples(root / name, split=split).fingerprint == samples.fingerprint


def test_a_subset_is_the_same_rows_of_the_whole(packed):
    root, name, _ = packed
    whole = load_samples(f"{name}[train]", data_root=root)
    part = load_samples(f"{name}[train]", data_root=root, limit=2, seed=3, resize=(1, 8, 8))
    rows = ReadOptions(limit=2, seed=3).rows(len(whole))
    assert part.ids == tuple(whole.ids[i] for i in rows) and part.shape == (1, 8, 8)
    assert np.array_equal(part.labels, whole.labels[rows])


def test_a_single_file_is_read_by_its_path(packed):
    root, name, _ = packed
    pattern = r"test|val|t10k-images"
    path = next(p for p in sorted((root / name).rglob("*")) if p.is_file() and re.match(pattern, p.name))
    assert load_samples(path).fingerprint == load_samples(f"{name}[test]", data_root=root).fingerprint
    with pytest.raises(DataError, match="single file without splits"):
        load_samples(path, split="test")


def load_both(folder):
    for split in ("train", "test"):
        load_samples(folder, split=split)


def test_every_truncated_or_foreign_file_is_named_in_one_line(packed):
    root, name, _ = packed
    for path in sorted(p for p in (root / name).rglob("*") if p.is_file()):
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], content[:-1], b"", b"<html>not found</html>"):
            path.write_bytes(damaged)
            with pytest.raises(DataError) as error:
                load_both(root / name)
            assert str(path) in str(error.value) and "\n" not in str(error.value)
        path.write_bytes(content)


def test_a_missing_split_names_those_that_are_there(packed):
    root, name, _ = packed
    with pytest.raises(DataError, match=r"has no split 'holdout', only \[.*'test', 'train'"):
        load_samples(f"{name}[holdout]", data_root=root)


@pytest.mark.parametrize("name", ["imagenet32", "cifar10", "cifar10_bin"])
def test_a_missing_batch_is_named(name, tmp_path):
    WRITERS[name](tmp_path)
    next(tmp_path.rglob("*data_batch_3*")).unlink()
    with pytest.raises(DataError, match=r"lacks (train_)?data_batch_3(.bin)? of the \d+ files of split 'train'"):
        load_samples(tmp_path, split="train")
    assert len(load_samples(tmp_path)) == COUNT


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": np.zeros((2, 3072), np.uint8)}, r"holds \['data'\], expected 'data' and 'labels'"),
        ({"data": np.zeros((2, 12288), np.uint8), "labels": [0, 1]}, r"holds uint8 \(2, 12288\) as 'data'"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, r"holds float64 \(2, 3072\) as 'data'"),
        ({"data": [[0] * 3072], "labels": [0]}, "holds list as 'data'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "no integer label for each of its 2 images"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "a"]}, "no integer label"),
    ],
)
def test_pickles_of_another_set_are_refused(tmp_path, batch, message):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match=message):
        load_samples(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"A": np.zeros(3)}, "holds no variables, expected X and y"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))}, r"holds X as float64"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[0], [1]])}, "expected 2 labels from 1 to 10"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((3, 1))}, "expected 2 labels from 1 to 10"),
    ],
)
def test_other_mat_files_are_refused(tmp_path, content, message):
    savemat(tmp_path / "test_32x32.mat", content)
    with pytest.raises(DataError, match=message):
        load_samples(tmp_path)


def test_idx_images_without_labels_and_swapped_files(tmp_path):
    x = images(0, (1, 4, 4))[:, 0]
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(x))
    samples = load_samples(tmp_path)
    assert samples.labels is None and np.array_equal(samples.x[:, 0], x)
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(DataError, match=r"t10k-labels.idx1-ubyte has no integer label for each of its 3 images"):
        load_samples(tmp_path)
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(DataError, match=r"begins with 00 00 08 01, expected 00 00 08 03"):
        load_samples(tmp_path)


def test_a_label_beyond_ten_classes_is_another_binary_set(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match="has the label 10, expected 0 to 9"):
        load_samples(tmp_path)


def test_an_unrecognised_named_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "train.tar.gz").write_bytes(b"x")
    for spec in ("svhn", tmp_path / "svhn"):
        with pytest.raises(DataError) as error:
            load_samples(spec, data_root=tmp_path)
        for part in (
            "train_32x32.mat",
            "train_data_batch_1",
            "data_batch_1.bin",
            "img_align_celeba",
            "00000_00000.ppm",
        ):
            assert part in str(error.value)
