from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fisherscope.data import list_sets, load_samples

ROOT = Path(os.environ.get("FISHERSCOPE_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(
    not (ROOT / "cifar10").is_dir(), reason=f"no image sets at {ROOT}; set FISHERSCOPE_DATA"
)
pytest.importorskip("pyarrow", reason="Parquet needs fisherscope[data]")

SHAPES = {
    "fashion_mnist": (1, 28, 28),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "celeba": (3, 32, 32),
    "gtsrb": (3, 32, 32),
    "tiny_imagenet32": (3, 32, 32),
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_sets_of_the_paper_load_by_name(name):
    assert list_sets(ROOT)[name] == ("test", "train")
    samples = load_samples(name, data_root=ROOT, limit=50)
    assert samples.x.shape == (50, *SHAPES[name])
    assert samples.x.dtype == np.uint8
    assert len(np.unique(samples.keys)) == 50
    assert (samples.labels is None) == (name == "celeba")


def test_no_image_is_in_both_splits_of_gtsrb_and_no_track_either():
    train, test = (load_samples(f"gtsrb[{s}]", data_root=ROOT) for s in ("train", "test"))
    assert not set(train.keys.tolist()) & set(test.keys.tolist())
    assert train.clusters is not None and test.clusters is not None
    assert not set(train.clusters) & set(test.clusters)
    assert all(c.startswith("class") and "frame" not in c for c in test.clusters)
