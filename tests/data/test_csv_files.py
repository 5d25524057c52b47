from __future__ import annotations

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.data import load_samples


@pytest.fixture
def save(tmp_path):
    """Write a CSV file and return its path."""

    def write(content: str | bytes):
        path = tmp_path / "t.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_rows_with_and_without_a_header(save):
    plain = load_samples(save("1,2\n3,4.5\n"))
    assert plain.x.tolist() == [[1, 2], [3, 4.5]] and plain.x.dtype == np.float64
    assert plain.ids == ("t.csv:1", "t.csv:2")
    named = load_samples(save('\ufeffa,"b, c"\r\n1,2\r\n\r\n3,4.5\r\n'))
    assert np.array_equal(named.x, plain.x) and np.array_equal(named.keys, plain.keys)
    assert named.ids == ("t.csv:2", "t.csv:4")
    assert len(load_samples(save("1,2\n3,4.5\n"), limit=1)) == 1


def test_splits(save):
    path = save("".join(f"{i},{i * i}\n" for i in range(10)))
    train, test = load_samples(f"{path}[train]"), load_samples(path, split="test")
    assert train.x[:, 0].tolist() == list(range(8)) and test.x[:, 0].tolist() == [8, 9]
    assert len(load_samples(path)) == 10


def test_labels_are_no_feature(save):
    samples = load_samples(save("x,label,y\n1,7,2\n3,8,4\n"))
    assert samples.x.tolist() == [[1, 2], [3, 4]] and samples.labels.tolist() == [7, 8]
    # as a spreadsheet writes them
    assert load_samples(save("x,label\n1,7.0\n")).labels.tolist() == [7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no row of numbers"),
        ("a,b\n", "holds no row of numbers"),
        ("a,b\n1,2\n3,four\n", r"line 3, column b: 'four' is no finite number"),
        ("1,2\n3,\n", r"line 2, column 2: the value is missing"),
        ("1,x\n3,4\n", r"line 1, column 2: 'x' is no finite number"),
        ("a,b\n1,nan\n", r"line 2, column b: 'nan' is no finite number"),
        ("a,b\n1,2\n3\n", r"line 3: 1 cells, expected 2 separated by commas"),
        ("a;b\n1;2\n", r"line 2, column a;b: '1;2' is no finite number"),
        ("label\n1\n", "holds the column 'label' only"),
        ("a,label,b\n1,2,2\n\n3,0.5,4\n", r"line 4, column label: 0\.5 is no label, expected an integer"),
        ("a,label\n1,1e300\n", r"line 2, column label: 1e\+300 is no label"),
        ("a,b\n1_000,2\n", r"line 2, column a: '1_000' holds an underscore"),
        ("1_000\n2\n", r"line 1, column 1: '1_000' holds an underscore"),
        ("a,b, a\n1,2,3\n", "has several columns called 'a', expected different names"),
        ("a,b\n1,9007199254740993\n", "line 2, column b: float64 rounds 9007199254740993 to 9007199254740992"),
        (",a,b\n0,1,2\n", "column 1 has no name, as the row numbers that pandas writes"),
        ("label,x,label\n1,2,3\n", "has several columns called 'label'"),
        (b"a,b\n1,\xff\n", "not a readable CSV file"),
        ('a,b\n1,"2\n', "not a readable CSV file"),
    ],
)
def test_files_that_cannot_be_used(save, content, message):
    with pytest.raises(DataError, match=message):
        load_samples(save(content))


def test_a_table_is_no_image(save):
    with pytest.raises(DataError, match="only images can be resized"):
        load_samples(save("1,2\n"), resize=(1, 2, 2))
