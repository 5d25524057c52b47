from __future__ import annotations

import socket
import sys

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.data.bundled import list_bundled, load_bundled

NEEDS_SKIMAGE = [n for n in list_bundled() if not n.startswith(("digits", "china", "flower"))]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a bundled set opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def load(name, split):
    if name in NEEDS_SKIMAGE:
        pytest.importorskip("skimage", reason="bundled images of scikit-image need fisherscope[demo]")
    return load_bundled(name, split)


@pytest.mark.parametrize("name", list_bundled())
def test_every_set_has_two_disjoint_splits_of_its_shape(name):
    train, test = load(name, "train"), load(name, "test")
    plain = {"digits": (1, 8, 8), "faces": (1, 25, 25), "nonfaces": (1, 25, 25)}
    shape = plain.get(name, (3 if name.endswith("-rgb") else 1, 16, 16))
    assert train.shape == test.shape == shape
    assert train.x.dtype == np.uint8
    keys = np.concatenate([train.keys, test.keys])
    assert len(np.unique(keys)) == len(keys)
    assert test.name == f"{name}[test]"
    if train.clusters is not None and test.clusters is not None:
        assert not set(train.clusters) & set(test.clusters)


def test_sizes_of_the_sets_a_demo_can_train_on():
    assert (len(load("digits-16", "train")), len(load("digits-16", "test"))) == (1198, 599)
    assert (len(load("texture-patches", "train")), len(load("texture-patches", "test"))) == (4704, 1536)
    assert len(load("faces-16", "test")) == 75


def test_digit_levels_are_scaled_to_the_full_range():
    from sklearn.datasets import load_digits

    digits = load_digits()
    test = load("digits", "test")
    assert np.abs(test.x[:, 0] / 255 * 16 - digits.images[1198:]).max() < 0.05
    assert test.x.max() == 255 and test.x.min() == 0
    assert test.labels is not None and np.array_equal(test.labels, digits.target[1198:])


def test_grey_patches_are_pixels_of_the_photograph():
    skimage_data = pytest.importorskip("skimage.data", reason="needs fisherscope[demo]")
    brick = skimage_data.brick()
    test = load("brick", "test")
    assert test.ids[0] == "brick/r0000-c0064" and test.clusters is not None and test.clusters[0] == "brick/0-1"
    assert np.array_equal(test.x[0, 0], brick[:16, 64:80])


def test_colour_patches_are_pixels_of_the_photograph():
    skimage_data = pytest.importorskip("skimage.data", reason="needs fisherscope[demo]")
    coffee = skimage_data.coffee()
    test = load("coffee-rgb", "test")
    assert np.array_equal(test.x[0], coffee[:16, 64:80].transpose(2, 0, 1))


def test_unknown_names_and_splits():
    with pytest.raises(DataError, match="no bundled set 'cats', only astronaut, "):
        load_bundled("cats")
    with pytest.raises(DataError, match="no split 'val', only train and test"):
        load_bundled("digits", "val")


def test_missing_scikit_image_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(DataError, match=r"pip install 'fisherscope\[demo\]'"):
        load_bundled("faces")
    assert len(load_bundled("digits")) == 599
