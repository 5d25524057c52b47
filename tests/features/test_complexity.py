"""Lempel-Ziv code lengths against parses by hand."""

import math

import numpy as np
import pytest
from torch import nn

from fisherscope.features.complexity import CodeLength, code_length
from fisherscope.features.extractors import Request


def request_of(x, group_size=1):
    return Request(nn.Linear(1, 1), None, x, np.arange(len(x), dtype=np.uint64), group_size)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [("", 0), ("a", 1), ("aa", 2), ("aaa", 2), ("aaaaaa", 3), ("abab", 3), ("aababc", 3), ("abcdef", 6)],
)
def test_the_length_is_that_of_the_phrases(text, phrases):
    # a|a, a|aa, a|aa|aaa, a|b|ab, a|ab|abc
    want = phrases * (math.log(phrases) + math.log(256)) if phrases else 0.0
    assert code_length(text.encode()) == want


def test_it_grows_with_what_cannot_be_predicted():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 3072, dtype=np.uint8).tobytes()
    assert code_length(bytes(3072)) < code_length(bytes(range(64)) * 48) < code_length(noise)
    assert code_length(noise) > 3072 * math.log(256)  # no code of noise is shorter than noise


def test_dtype_batch_and_group_do_not_change_it():
    images = np.random.default_rng(0).integers(0, 40, (6, 1, 5, 5), dtype=np.uint8)
    alone = np.array([code_length(image.tobytes()) for image in images])
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        lengths = CodeLength().extract(request_of(images.astype(dtype), 2))["code_length"]
        np.testing.assert_array_equal(lengths, alone.reshape(3, 2))


def test_large_numbers_count_with_all_their_bytes():
    tokens = np.array([[1, 2, 300, 4]])
    want = code_length(bytes([1, 2, 300 % 256, 4, 0, 0, 1, 0]))
    np.testing.assert_array_equal(CodeLength().extract(request_of(tokens))["code_length"], [[want]])


def test_floating_numbers_have_none_and_only_whole_ones_of_a_pytree_count():
    x = np.random.default_rng(0).normal(size=(4, 7))
    np.testing.assert_array_equal(CodeLength().extract(request_of(x))["code_length"], np.zeros((4, 1)))
    words = np.arange(12, dtype=np.int64).reshape(4, 3)
    both = Request(nn.Linear(1, 1), None, {"x": x, "words": words}, np.arange(4, dtype=np.uint64))
    want = [[code_length(bytes(row))] for row in words.tolist()]
    np.testing.assert_array_equal(CodeLength().extract(both)["code_length"], want)
