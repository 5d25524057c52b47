from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.data.pickles import read_plain_pickle

ARRAYS = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(4, dtype=">i4"),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7, np.int64),
}


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.fixture
def write(tmp_path):
    def save(content: bytes) -> Path:
        path = tmp_path / "batch"
        path.write_bytes(content)
        return path

    return save


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_as_pickle_reads_them(write, name, protocol):
    value = {"data": ARRAYS[name], "labels": [1, 2.5, None, True, "a", b"b", (3, b"")]}
    found = read_plain_pickle(write(pickle.dumps(value, protocol=protocol)))
    assert np.array_equal(found["data"], value["data"]) and found["data"].dtype == value["data"].dtype
    assert found["labels"] == value["labels"]


def test_a_batch_written_by_python_2_with_an_old_numpy(write):
    pixels = bytes(range(250, 256))
    content = b"".join(
        [
            b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff",
            b"K\x00tb\x89U\x06" + pixels + b"tbU\x06labels](K\x03K\x05eu.",
        ]
    )
    assert pickle.loads(content, encoding="latin1")["labels"] == [3, 5]
    found = read_plain_pickle(write(content))
    assert found["data"].tolist() == [[250, 251, 252], [253, 254, 255]] and found["labels"] == [3, 5]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "touch ran"), r"(posix|nt)\.system"),
        ((eval, "open('ran', 'w')"), r"builtins\.eval"),
        ((getattr, "x", "y"), r"builtins\.getattr"),
        ((np.load, "x.npy"), r"numpy\.load"),
        ((np.fromfile, "x"), r"fromfile"),
    ],
    ids=lambda v: v if isinstance(v, str) else v[0].__name__,
)
def test_any_other_name_is_refused_before_it_runs(write, tmp_path, monkeypatch, call, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"batch wants to call .*{name}.*nothing of it was run"):
        read_plain_pickle(write(pickle.dumps({"data": Hostile(*call)})))
    assert not (tmp_path / "ran").exists()


def forged(value: bytes) -> bytes:
    """Return the pickle {"data": value} in protocol 0."""
    return b"(dVdata\n" + value + b"s."


def dumped(value: object) -> bytes:
    return pickle.dumps({"data": value}, protocol=2)


FORGED = {
    "object array": dumped(np.array([None])),
    "text array": dumped(np.array(["a"])),
    "record array": dumped(np.zeros(1, [("a", "u1")])),
    "array without state": forged(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"),
    "array of an unknown class": forged(b"cnumpy.core.multiarray\n_reconstruct\n(c_codecs\nencode\n(I0\ntVb\ntR"),
    "shape larger than the bytes": dumped(np.zeros(8, np.uint8)).replace(b"K\x08\x85", b"K\x09\x85"),
    "state of a function": forged(b"c_codecs\nencode\n(dVx\nI1\nsb"),
    "bare function": forged(b"c_codecs\nencode\n"),
    "another encoding": forged(b"c_codecs\nencode\n(Vx\nVrot13\ntR"),
    "no dictionary": pickle.dumps([1]),
    "a key that is no text": pickle.dumps({1: 2}),
    "no pickle": b"\x1f\x8b not a pickle",
    "empty": b"",
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_and_broken_files_are_one_line(write, name):
    with pytest.raises(DataError, match="batch is truncated or not a pickled dictionary") as error:
        read_plain_pickle(write(FORGED[name]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_every_truncation_is_named(write, share):
    content = pickle.dumps({"data": ARRAYS["bytes"], "labels": [1, 2]})
    with pytest.raises(DataError, match="truncated"):
        read_plain_pickle(write(content[: int(len(content) * share)]))
