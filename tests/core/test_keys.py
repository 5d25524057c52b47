"""Keys name samples, fingerprints name artefacts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fisherscope.core.keys import among, fingerprint_arrays, fingerprint_keys, sample_keys

KNOWN = np.array([11348922631544083619, 16617237018700207942, 9953818825769650499], np.uint64)

images = hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(1), st.integers(1, 4), st.integers(1, 4)))


@given(images)
def test_key_depends_on_the_values_not_on_the_dtype(x):
    keys = sample_keys(x)
    assert keys.dtype == np.uint64 and keys.shape == (len(x),)
    for dtype in (np.float32, np.float64, np.int32, np.int64, np.uint64, ">i8"):
        np.testing.assert_array_equal(sample_keys(x.astype(dtype)), keys)


@given(images, st.randoms(use_true_random=False))
def test_key_of_a_sample_does_not_depend_on_its_batch(x, random):
    order = list(range(len(x)))
    random.shuffle(order)
    np.testing.assert_array_equal(sample_keys(x[order]), sample_keys(x)[order])
    np.testing.assert_array_equal(sample_keys(x[:1]), sample_keys(x)[:1])


def test_key_sees_every_entry_and_the_shape():
    x = np.arange(12.0).reshape(1, 3, 4)
    changed = {tuple(sample_keys(x))}
    for i in range(12):
        y = x.copy().reshape(-1)
        y[i] += 1e-9
        changed.add(tuple(sample_keys(y.reshape(1, 3, 4))))
    changed.add(tuple(sample_keys(x.reshape(1, 4, 3))))
    assert len(changed) == 14


def test_minus_zero_is_zero():
    assert sample_keys(np.array([[-0.0]]))[0] == sample_keys(np.array([[0.0]]))[0]


def test_large_integers_are_not_rounded():
    keys = sample_keys(np.array([[2**53], [2**53 + 1]], dtype=np.int64))
    assert keys[0] != keys[1]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, ">i8"])
def test_a_large_integer_changes_the_key_of_its_own_sample_alone(dtype):
    x = np.array([[1, 2], [3, 2**53 + 1], [5, 2**53]], dtype=dtype)
    keys = sample_keys(x)
    np.testing.assert_array_equal(keys[[0, 2]], sample_keys(x.astype(np.float64))[[0, 2]])
    assert keys[1] != sample_keys(x.astype(np.float64))[1]
    assert len(sample_keys(x[:0])) == 0
    for i in range(3):
        assert sample_keys(x[i : i + 1])[0] == keys[i]


def test_negative_integers_have_the_keys_of_floats_as_far_as_these_are_exact():
    x = np.array([[-1], [-(2**53)], [-(2**53) - 1], [-(2**63)]])
    floats = sample_keys(x.astype(np.float64))
    np.testing.assert_array_equal(sample_keys(x)[:2], floats[:2])
    assert not (sample_keys(x)[2:] == floats[2:]).any()


def test_keys_of_images_and_of_large_integers_are_those_of_earlier_versions():
    np.testing.assert_array_equal(sample_keys(np.arange(4, dtype=np.uint8).reshape(2, 1, 1, 2)), KNOWN[:2])
    np.testing.assert_array_equal(sample_keys(np.array([[2**60 + 1, 5]])), KNOWN[2:])


def test_several_leaves_make_one_key():
    a, b = np.array([[1.0], [1.0]]), np.array([[2.0], [3.0]])
    keys = sample_keys([a, b])
    assert keys[0] != keys[1]
    assert keys[0] != sample_keys(a)[0]


def test_fingerprint_depends_on_order_name_and_shape():
    assert fingerprint_keys(np.array([1, 2], np.uint64)) != fingerprint_keys(np.array([2, 1], np.uint64))
    a = np.zeros((2, 3), np.float32)
    base = fingerprint_arrays([("w", a)])
    assert base == fingerprint_arrays([("w", a.astype(np.float64))])
    assert (
        len({base, fingerprint_arrays([("v", a)]), fingerprint_arrays([("w", a.T)]), fingerprint_arrays([("w", a)], 1)})
        == 4
    )


@pytest.mark.parametrize("order", [np.sort, np.asarray])
def test_keys_are_found_among_known_ones(order):
    rng = np.random.default_rng(0)
    known = order(rng.integers(0, 2**64, 100, dtype=np.uint64))
    keys = np.stack([known[::10], rng.integers(0, 2**64, 10, dtype=np.uint64)], axis=1)
    np.testing.assert_array_equal(among(keys, known), np.isin(keys, known))
    assert among(keys, known)[:, 0].all() and not among(keys, known[:0]).any()
