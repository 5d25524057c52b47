from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.data import load_samples
from fisherscope.data.hub import looks_like_hub_name, read_hub
from fisherscope.data.samples import ReadOptions

datasets = pytest.importorskip("datasets", reason="hub names need fisherscope[data]")
hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def online(monkeypatch):
    """Pretend to be online, with a hub that knows every set."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda *_args, **_more: None)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("ylecun/mnist", True),
        ("uoft-cs/cifar10", True),
        ("ufldl-stanford/svhn:cropped_digits", True),
        ("own/er:", False),
        ("mnist", False),
        ("a/b/c", False),
        ("../x", False),
        ("/etc", False),
        ("~/x", False),
        ("a b/c", False),
    ],
)
def test_only_owner_and_name_is_looked_up(name, answer):
    assert looks_like_hub_name(name) is answer


def test_a_hub_set_is_read_through_the_arrow_table(online, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (6, 4, 4)).astype(np.uint8)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    made = datasets.Dataset.from_dict({"img": [Image.fromarray(a) for a in x], "label": list(range(6))}, features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: {("own/er", "train"): made}[name, split])
    options = ReadOptions(limit=3, seed=1)
    samples = read_hub("own/er", "train", "own/er[train]", options)
    assert np.array_equal(samples.x[:, 0], x[options.rows(6)])
    assert samples.labels is not None and np.array_equal(samples.labels, options.rows(6))
    assert samples.name == "own/er[train]"


@pytest.mark.parametrize(
    ("name", "configuration", "split"),
    [
        ("ufldl-stanford/svhn", "cropped_digits", "test"),
        ("ufldl-stanford/svhn:full_numbers", "full_numbers", "extra"),
        ("benjamin-paine/imagenet-1k-32x32", "default", "validation"),
    ],
    ids=["svhn", "svhn-by-configuration", "imagenet32"],
)
def test_svhn_and_imagenet32_load_by_their_hub_names(online, monkeypatch, tmp_path, name, configuration, split):
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    classes = datasets.ClassLabel(num_classes=10)
    features = datasets.Features({"image": datasets.Image(), "label": classes})
    made = datasets.Dataset.from_dict({"image": [Image.fromarray(a) for a in x], "label": [3, 0, 9, 3]}, features)
    folder = tmp_path / name.partition(":")[0]
    folder.mkdir(parents=True)
    file = folder / f"{configuration}-{split}.parquet"
    made.to_parquet(file)
    load = datasets.load_dataset

    def from_fixture(repository, config="default", *, split):
        path = tmp_path / repository / f"{config}-{split}.parquet"
        return load("parquet", data_files={split: str(path)}, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", from_fixture)
    samples = load_samples(f"{name}[{split}]")
    assert np.array_equal(samples.x, np.moveaxis(x, -1, 1))
    assert samples.labels is not None and samples.labels.tolist() == [3, 0, 9, 3]
    assert samples.name == f"{name}[{split}]"


def test_a_set_that_does_not_load_is_one_line(online, monkeypatch):
    def fail(*_args, **_more):
        raise ValueError("Unknown split 'val'.\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"^the hub set 'own/er' has not loaded \(Unknown split 'val'\.\)$"):
        read_hub("own/er", "val", "x")


def test_unreachable_hub_is_one_line_that_names_offline_mode(online, monkeypatch):
    def unreachable(*_args, timeout, **_more):
        assert timeout <= 10
        raise OSError("Name or service not known")

    monkeypatch.setattr(hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(DataError, match=r"hub cannot be reached \(Name or service not known\); HF_HUB_OFFLINE=1"):
        read_hub("own/er", "test", "x")


def test_offline_mode_never_asks_the_hub(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda *_a, **_k: pytest.fail("asked the hub"))

    def not_cached(*_args, **_more):
        raise ConnectionError("Couldn't reach 'own/er' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", not_cached)
    with pytest.raises(DataError, match="OfflineModeIsEnabled"):
        read_hub("own/er", "test", "x")


def test_missing_datasets_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'fisherscope\[data\]'"):
        read_hub("own/er", "test", "x")
