from __future__ import annotations

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.core.keys import sample_keys
from fisherscope.data.arrays import read_array_file, samples_from_array
from fisherscope.data.samples import ReadOptions


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_channel_layouts_of_images_agree():
    x = noise(4, 3, 6, 5)
    assert np.array_equal(samples_from_array(x, "x").x, x)
    assert np.array_equal(samples_from_array(x.transpose(0, 2, 3, 1), "x").x, x)
    grey = noise(4, 6, 5)
    for view in (grey, grey[:, None], grey[..., None]):
        assert np.array_equal(samples_from_array(view, "x").x, grey[:, None])
    assert np.array_equal(samples_from_array(x, "x").keys, samples_from_array(x.transpose(0, 2, 3, 1), "x").keys)


def test_tokens_keep_their_dtype():
    for dtype in (np.int32, np.int64):
        tokens = np.array([[1, 50_000, 3], [4, 5, 6]], dtype)
        samples = samples_from_array(tokens, "x", ReadOptions(limit=1, seed=0))
        assert samples.x.dtype == dtype and samples.x.tolist() in ([[1, 50_000, 3]], [[4, 5, 6]])
    with pytest.raises(DataError, match="only uint8 images can be resized"):
        samples_from_array(tokens, "x", ReadOptions(resize=(1, 2, 2)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (noise(4, 3, 5, 3), "can be read as channels first and as channels last"),
        (noise(4, 2, 5, 2), "has no axis of 1 or 3 channels"),
        (noise(4, 10), "reshape images, or cast rows to float32"),
        (np.zeros((4, 3, 2), np.int64), "is int64 of shape"),
        (np.zeros((4, 3), bool), "is bool of shape"),
        (np.zeros(4, np.float32), "expected uint8"),
        (np.float32(3), "expected uint8"),
        (np.zeros((4, 3), np.float16), "is float16"),
        (np.zeros((0, 3)), "holds no samples"),
    ],
)
def test_other_layouts_and_dtypes_are_explained(array, message):
    with pytest.raises(DataError, match=message):
        samples_from_array(np.asarray(array), "x")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_rows_keep_dtype_and_values(dtype):
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(dtype)
    samples = samples_from_array(x, "x")
    assert samples.x.dtype == dtype
    assert np.array_equal(samples.x, x)
    assert samples.ids[3] == "x[3]"


def test_names_and_rows_of_a_subset(tmp_path):
    x = noise(20, 1, 4, 4)
    np.save(tmp_path / "x.npy", x)
    options = ReadOptions(limit=5, seed=1)
    samples = read_array_file(tmp_path / "x.npy", "x.npy", options)
    rows = options.rows(20)
    assert np.array_equal(samples.x, x[rows])
    assert samples.ids == tuple(f"x.npy[{i}]" for i in rows)
    assert np.array_equal(samples.keys, sample_keys(x[rows]))
    assert type(samples.x) is np.ndarray


def test_nan_is_named_by_its_row_in_the_file(tmp_path):
    x = np.zeros((20, 3), np.float32)
    x[13, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match=r"x.npy holds NaN or inf, first in row 13 \(x.npy\[13\]; 1 of 20 rows\)"):
        read_array_file(tmp_path / "x.npy", "x.npy")


def test_resizing_images_but_not_rows():
    assert samples_from_array(noise(3, 8, 8), "x", ReadOptions(resize=(3, 4, 4))).x.shape == (3, 3, 4, 4)
    with pytest.raises(DataError, match="only uint8 images can be resized"):
        samples_from_array(np.zeros((3, 8)), "x", ReadOptions(resize=(1, 4, 4)))


def test_arrays_of_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    objects = np.array([Bomb(), Bomb()], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=objects)
    for name in ("o.npy", "o.npz"):
        with pytest.raises(DataError, match="without object arrays"):
            read_array_file(tmp_path / name, name)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("keep", [0, 5, 100, -20])
def test_truncated_files(tmp_path, name, keep):
    save = np.save if name == "x.npy" else np.savez
    save(tmp_path / name, noise(10, 1, 8, 8))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{name} is not a readable array"):
        read_array_file(tmp_path / name, name)


def test_entries_of_an_archive(tmp_path):
    a, b = noise(3, 4, 4), noise(5, 4, 4)
    np.savez(tmp_path / "one.npz", a)
    np.savez(tmp_path / "two.npz", a=a, b=b)
    assert len(read_array_file(tmp_path / "one.npz", "one")) == 3
    assert len(read_array_file(tmp_path / "two.npz", "two", entry="b")) == 5
    with pytest.raises(DataError, match=r"holds the arrays \['a', 'b'\], expected one; pick one, as in two.npz\[a\]"):
        read_array_file(tmp_path / "two.npz", "two")
    with pytest.raises(DataError, match="not 'c'"):
        read_array_file(tmp_path / "two.npz", "two", entry="c")
    np.save(tmp_path / "x.npy", a)
    with pytest.raises(DataError, match="has no 'a'"):
        read_array_file(tmp_path / "x.npy", "x", entry="a")


def test_a_suffix_that_lies(tmp_path):
    np.save(tmp_path / "x.npy", noise(3, 4, 4))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", noise(3, 4, 4))
    (tmp_path / "y.npz").rename(tmp_path / "y.npy")
    for name in ("x.npz", "y.npy"):
        with pytest.raises(DataError, match=f"{name} is not a readable array"):
            read_array_file(tmp_path / name, name)
    np.savez(tmp_path / "none.npz")
    with pytest.raises(DataError, match=r"holds the arrays \[\], expected one; save one"):
        read_array_file(tmp_path / "none.npz", "none")


def test_a_flipped_byte_in_a_compressed_archive(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", noise(50, 8, 8))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz is not a readable array"):
        read_array_file(tmp_path / "x.npz", "x")


def test_bytes_behind_the_array_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", noise(2, 1, 4, 4))
    with (tmp_path / "x.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"x\.npy is not a readable array \(4 bytes follow its last value\)"):
        read_array_file(tmp_path / "x.npy", "x")
