from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.keys import fingerprint_keys, sample_keys
from fisherscope.data.samples import ReadOptions, Samples, describe_shape, require_shape, track_names

IMAGES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5))
)


def make(x, **more):
    return Samples.from_array(x, [f"s{i}" for i in range(len(x))], "set", **more)


def grey(n=4, side=3):
    return np.arange(n * side * side, dtype=np.uint8).reshape(n, 1, side, side)


@given(IMAGES)
def test_keys_do_not_depend_on_the_dtype_of_the_copy(x):
    samples = make(x)
    for dtype in (np.float32, np.float64):
        assert np.array_equal(make(x.astype(dtype)).keys, samples.keys)
    assert samples.keys.dtype == np.uint64


@given(IMAGES, st.randoms())
def test_keys_and_names_follow_their_samples_through_a_selection(x, random):
    samples = make(x, labels=np.arange(len(x)), clusters=[f"c{i}" for i in range(len(x))])
    order = list(range(len(x)))
    random.shuffle(order)
    shuffled = samples.select(order)
    assert np.array_equal(shuffled.keys, sample_keys(x[order]))
    assert shuffled.ids == tuple(f"s{i}" for i in order)
    assert shuffled.clusters == tuple(f"c{i}" for i in order)
    assert shuffled.labels is not None and shuffled.labels.tolist() == order
    assert shuffled.fingerprint == fingerprint_keys(samples.keys[order])


def test_fingerprint_sees_order_and_content():
    samples = make(grey())
    assert samples.fingerprint != samples.select([1, 0, 2, 3]).fingerprint
    changed = grey()
    changed[0, 0, 0, 0] += 1
    assert samples.fingerprint != make(changed).fingerprint


def test_selection_by_slice_and_mask():
    samples = make(grey())
    assert samples.select(slice(1, 3)).ids == ("s1", "s2")
    assert samples.select(np.array([True, False, False, True])).ids == ("s0", "s3")
    assert len(samples.select([2])) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_row_that_is_not_finite_is_named(bad):
    x = np.zeros((5, 3))
    x[2, 1] = x[4, 0] = bad
    with pytest.raises(DataError, match=r"first in row 2 \(s2; 2 of 5 rows\)"):
        make(x)


def test_empty_unequal_and_duplicate_fields_are_errors():
    with pytest.raises(DataError, match="no samples"):
        make(np.zeros((0, 1, 2, 2), np.uint8))
    with pytest.raises(DataError, match="2 ids for 4 samples"):
        Samples.from_array(grey(), ["a", "b"], "set")
    with pytest.raises(DataError, match="'a' occurs twice"):
        Samples.from_array(grey(2), ["a", "a"], "set")
    with pytest.raises(DataError, match="1 labels for 4 samples"):
        make(grey(), labels=np.array([1]))


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 5))
def test_subsets_are_sorted_distinct_and_nested(count, limit, seed):
    rows = ReadOptions(limit=limit, seed=seed).rows(count)
    assert len(rows) == min(limit, count)
    assert (np.diff(rows) > 0).all()
    assert set(rows) <= set(ReadOptions(limit=limit + 3, seed=seed).rows(count))
    assert np.array_equal(rows, ReadOptions(limit=limit, seed=seed).rows(count))


def test_subset_is_random_and_seeded():
    rows = ReadOptions(limit=100, seed=0).rows(1000)
    assert not np.array_equal(rows, np.arange(100))
    assert not np.array_equal(rows, ReadOptions(limit=100, seed=1).rows(1000))
    assert 350 < rows.mean() < 650


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": -1}, {"resize": (2, 4, 4)}, {"resize": (1, 0, 4)}])
def test_settings_out_of_range(options):
    with pytest.raises(SettingError, match="expected"):
        ReadOptions(**options)


def test_shape_in_words():
    assert describe_shape((3, 32, 24)) == "32x24 RGB"
    assert describe_shape((1, 28, 28)) == "28x28 grey"
    assert describe_shape((7,)) == "of shape (7,)"


def test_wrong_shape_names_the_sample_both_shapes_and_the_way_out():
    with pytest.raises(DataError) as error:
        require_shape(make(np.zeros((2, 3, 32, 32), np.uint8)), (1, 28, 28))
    assert str(error.value) == (
        "s0 of set is 32x32 RGB, the model expects 28x28 grey; "
        "use --resize to convert (resampling itself can look novel)"
    )
    with pytest.raises(DataError, match=r"of shape \(5,\), the model expects of shape \(4,\); give samples"):
        require_shape(make(np.zeros((2, 5))), (4,))


def test_values_out_of_range_are_named():
    x = np.full((3, 4), 100.0)
    require_shape(make(x), (4,), (0, 255))
    x[1, 2] = 300
    with pytest.raises(DataError, match=r"s1 of set holds 300, the model expects values in \[0, 255\]"):
        require_shape(make(x), (4,), (0, 255))


def test_images_divided_by_255_are_refused_but_black_images_are_not():
    with pytest.raises(DataError, match="multiply by 255"):
        require_shape(make(np.full((2, 1, 2, 2), 0.5)), (1, 2, 2), (0, 255))
    for dtype in (np.uint8, np.float32):
        require_shape(make(np.zeros((2, 1, 2, 2), dtype)), (1, 2, 2), (0, 255))
    require_shape(make(np.full((2, 3), 0.5)), (3,), (0, 1))
    require_shape(make(np.full((2, 3), 0.5)), (3,), (-5, 5))


def test_tracks_are_found_only_where_every_name_is_a_frame():
    assert track_names(["a-track1-frame00001.png", "a-track1-frame2"]) == ["a-track1", "a-track1"]
    assert track_names(["a-frame1.png", "b.png"]) is None
