from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.core.keys import sample_keys
from fisherscope.data.parquet import read_parquet
from fisherscope.data.samples import ReadOptions

pa = pytest.importorskip("pyarrow", reason="Parquet needs fisherscope[data]")
pq = pytest.importorskip("pyarrow.parquet")


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 5, 4)).astype(np.uint8)


def write(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


def structs(x, names=None):
    return [{"bytes": png(a), "path": names[i] if names else f"im{i}.png"} for i, a in enumerate(x)]


def test_struct_column_with_labels(tmp_path):
    x = pixels(4)
    samples = read_parquet([write(tmp_path / "s.parquet", {"image": structs(x), "label": [3, 1, 2, 0]})], "set")
    assert np.array_equal(samples.x[:, 0], x)
    assert samples.ids == ("im0.png#0", "im1.png#1", "im2.png#2", "im3.png#3")
    assert samples.labels is not None and samples.labels.tolist() == [3, 1, 2, 0]
    assert np.array_equal(samples.keys, sample_keys(x[:, None]))


def test_bytes_column_of_any_name_and_rows_across_shards(tmp_path):
    x = pixels(5)
    first = write(tmp_path / "a.parquet", {"img": [png(a) for a in x[:2]]})
    second = write(tmp_path / "b.parquet", {"img": [png(a) for a in x[2:]]})
    samples = read_parquet([first, second], "set")
    assert np.array_equal(samples.x[:, 0], x)
    assert samples.ids == tuple(f"set#{i}" for i in range(5))
    assert samples.labels is None


def test_subset_keeps_rows_labels_and_tracks_together(tmp_path):
    x = pixels(12)
    names = [f"t{i // 3}-frame{i}.png" for i in range(12)]
    path = write(tmp_path / "s.parquet", {"image": structs(x, names), "label": list(range(12))})
    options = ReadOptions(limit=5, seed=2)
    samples = read_parquet([path], "set", options)
    rows = options.rows(12)
    assert np.array_equal(samples.x[:, 0], x[rows])
    assert samples.labels is not None and np.array_equal(samples.labels, rows)
    assert samples.clusters == tuple(f"t{i // 3}" for i in rows)


def test_labels_that_mean_none(tmp_path):
    path = write(tmp_path / "s.parquet", {"image": structs(pixels(2)), "label": [-1, -1]})
    assert read_parquet([path], "set").labels is None


def test_numeric_columns_are_rows(tmp_path):
    columns = {"a": [1.5, 2.5], "label": [0, 1], "b": pa.array([3, 4], pa.int32())}
    samples = read_parquet([write(tmp_path / "s.parquet", columns)], "set")
    assert samples.x.dtype == np.float64
    assert samples.x.tolist() == [[1.5, 3.0], [2.5, 4.0]]
    assert samples.labels is not None and samples.labels.tolist() == [0, 1]


def test_large_integers_that_float64_holds_are_numbers(tmp_path):
    columns = {"a": [2**60, -(2**63)], "b": pa.array([2**63, 2**53], pa.uint64()), "c": [2**53, 2**53 - 1]}
    x = read_parquet([write(tmp_path / "s.parquet", columns)], "set").x
    assert [[int(v) for v in row] for row in x] == [[2**60, 2**63, 2**53], [-(2**63), 2**53, 2**53 - 1]]


@pytest.mark.parametrize("labels", [["x", "y"], [0.5, 0.7], [1, None]])
def test_beside_images_labels_that_are_no_classes_are_left_out(tmp_path, labels):
    path = write(tmp_path / "s.parquet", {"image": structs(pixels(2)), "label": labels})
    samples = read_parquet([path], "set")
    assert samples.labels is None and len(samples) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0, None]}, "'a' has rows without a value"),
        ({"a": [1.0, float("nan")]}, r"NaN or inf, first in row 1 \(set#1"),
        ({"a": ["x", "y"]}, r"a \(string\)"),
        ({"a": [1.0, 2.0], "label": [0.5, 0.7]}, r"the column 'label' is double, expected labels as integers"),
        ({"a": [1.0, 2.0], "label": ["x", "y"]}, r"the column 'label' is string, expected labels as integers"),
        ({"a": [1.0, 2.0], "label": [1, None]}, r"'label' has rows without a value"),
        ({"a": [0, 2**60 + 1]}, r"'a' holds 1152921504606846977, which float64 rounds to 1152921504606846976"),
        ({"a": [-(2**53) - 1]}, r"'a' holds -9007199254740993, which float64 rounds"),
        ({"a": [2**63 - 1]}, r"'a' holds 9223372036854775807, which float64 rounds"),
        ({"a": pa.array([2**64 - 1], pa.uint64())}, r"'a' holds 18446744073709551615, which float64 rounds"),
        ({"label": [1, 2]}, r"\['label'\] are not numeric features"),
        ({"x": [b"1"], "y": [b"2"]}, r"image columns \['x', 'y'\]"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}]}, "holds no image bytes"),
        ({"image": [b"not a png"]}, "set: set#0 is corrupt"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        read_parquet([write(tmp_path / "s.parquet", columns)], "set")


def test_a_corrupt_image_is_named_by_path_and_row(tmp_path):
    rows = structs(pixels(3))
    rows[1]["bytes"] = rows[1]["bytes"][:50]
    with pytest.raises(DataError, match=r"set: im1\.png#1 is corrupt"):
        read_parquet([write(tmp_path / "s.parquet", {"image": rows})], "set")


def test_image_column_wins_among_several(tmp_path):
    x = pixels(2)
    path = write(tmp_path / "s.parquet", {"mask": [b"x", b"y"], "image": structs(x)})
    assert np.array_equal(read_parquet([path], "set").x[:, 0], x)


def test_files_that_are_not_parquet_or_differ(tmp_path):
    broken = tmp_path / "broken.parquet"
    good = write(tmp_path / "good.parquet", {"a": [1.0]})
    broken.write_bytes(good.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"broken.parquet is not a readable Parquet file"):
        read_parquet([broken], "set")
    other = write(tmp_path / "other.parquet", {"b": [1.0]})
    with pytest.raises(DataError, match=r"other.parquet has columns \['b'\]"):
        read_parquet([good, other], "set")
    kind = write(tmp_path / "kind.parquet", {"a": ["text"]})
    with pytest.raises(DataError, match="differ in their column types"):
        read_parquet([good, kind], "set")


def test_rows_are_not_resized(tmp_path):
    with pytest.raises(DataError, match="only images can be resized"):
        read_parquet([write(tmp_path / "s.parquet", {"a": [1.0]})], "set", ReadOptions(resize=(1, 4, 4)))


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'fisherscope\[data\]'"):
        read_parquet([tmp_path / "s.parquet"], "set")
