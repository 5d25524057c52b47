from __future__ import annotations

import numpy as np
import pytest

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.data import load_samples
from fisherscope.data.parts import part_of
from fisherscope.data.samples import require_shape
from fisherscope.data.texts import byte_windows


@pytest.fixture
def text(tmp_path):
    """Ten windows of four bytes and two bytes over, of which not all are UTF-8."""
    (tmp_path / "text").mkdir()
    path = tmp_path / "text" / "a.txt"
    path.write_bytes(bytes(range(214, 256)))
    return path


def test_windows():
    assert byte_windows(b"abcdefgh", 3).tolist() == [[97, 98, 99], [100, 101, 102]]
    assert byte_windows(b"abcde", 3, stride=1).tobytes() == b"abcbcdcde"
    assert byte_windows("é".encode(), 2).dtype == np.uint8
    for arguments in ({"length": 4}, {"length": 0}, {"length": 2, "stride": 0}):
        with pytest.raises(SettingError, match="hold no window"):
            byte_windows(b"abc", **arguments)


def test_a_text_is_windows_of_bytes(text):
    samples = load_samples(text, window=4)
    assert samples.shape == (4,) and samples.x.dtype == np.uint8 and len(samples) == 10
    assert samples.x[:2].tolist() == [[214, 215, 216, 217], [218, 219, 220, 221]]
    assert samples.ids[:2] == ("a.txt:0", "a.txt:4") and samples.name == str(text)
    assert np.array_equal(samples.keys, sample_keys(samples.x))
    assert load_samples(text, default_window=21).shape == (21,)
    assert load_samples(text, default_window=21, window=2).shape == (2,)
    few = load_samples(text, window=4, limit=3, seed=1)
    assert len(few) == 3 and set(few.ids) < set(samples.ids)


def test_the_splits_of_a_file_are_its_first_four_fifths_and_the_rest(text):
    whole, train, test = (load_samples(text, window=4, split=s) for s in (None, "train", "test"))
    assert (len(train), len(test)) == (8, 2)
    assert train.ids + test.ids == whole.ids and np.array_equal(np.concatenate([train.keys, test.keys]), whole.keys)
    assert load_samples(f"{text}[train]", window=4).fingerprint == train.fingerprint
    assert train.name == f"{text}[train]"
    with pytest.raises(DataError, match="no split 'val'; of one file the first 80 % are 'train'"):
        load_samples(text, window=4, split="val")
    with pytest.raises(DataError, match="holds 1 samples, too few to split"):
        load_samples(text, window=42, split="train")
    assert part_of(11, "train", "x") == range(8)


def test_a_named_text_has_the_splits_of_a_named_set(text, tmp_path, monkeypatch):
    read = {"data_root": tmp_path, "window": 4}
    assert load_samples("text/a.txt", **read).name == "text/a.txt[test]"
    assert len(load_samples("text/a.txt", **read)) == 2
    assert len(load_samples("text/a.txt", default_split="train", **read)) == 8
    assert load_samples("text/a.txt[train]", **read).ids[0] == "a.txt:0"
    with pytest.raises(DataError, match=r"'text/b.txt' is no file .*sets under .*: text/a.txt;"):
        load_samples("text/b.txt", **read)
    monkeypatch.chdir(tmp_path)  # an existing path wins, as everywhere
    assert len(load_samples("text/a.txt", **read)) == 10


def test_texts_that_cannot_be_used(text, tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.txt is empty, expected at least one window of 4 bytes"):
        load_samples(tmp_path / "empty.txt", window=4)
    with pytest.raises(DataError, match=r"a\.txt has 42 bytes, expected at least one window of 43 bytes"):
        load_samples(text, window=43)
    with pytest.raises(DataError, match="give --window"):
        load_samples(text)
    with pytest.raises(DataError, match="only images can be resized"):
        load_samples(text, window=4, resize=(1, 4, 4))
    with pytest.raises(SettingError, match="window is 0"):
        load_samples(text, window=0)
    with pytest.raises(DataError, match=r"b\.txt does not exist"):
        load_samples(tmp_path / "b.txt", window=4)


@pytest.mark.parametrize("spec", ["digits", np.zeros((2, 4))])
def test_only_texts_have_windows(spec):
    with pytest.raises(SettingError, match=r"a window .*was asked of"):
        load_samples(spec, window=4)
    assert len(load_samples(spec, default_window=4)) > 1


def test_a_model_of_other_samples_says_what_to_do(text):
    samples = load_samples(text, window=4)
    require_shape(samples, (4,), (0.0, 255.0))
    with pytest.raises(DataError, match="use --window 8"):
        require_shape(samples, (8,))
    with pytest.raises(DataError, match="needs a model of byte windows"):
        require_shape(samples, (1, 4, 4))
    with pytest.raises(DataError, match="reads numbers from 0 to 50256"):
        require_shape(samples, (4,), (0.0, 50256.0))
