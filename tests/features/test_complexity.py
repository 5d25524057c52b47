"""Lempel-Ziv code lengths against parses by hand, predictive ones against a loop over pixels."""

import math

import numpy as np
import pytest
from scipy.special import gammaln
from torch import nn

from fisherscope.features.complexity import CodeLength, PredictiveLength, code_length, predictive_length
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


def coded_by_loop(plane):
    """Length of the code of a plane: every residual by its probability given those before it."""
    rows, columns = plane.shape
    counts, length = np.full(256, 0.5), 0.0
    for i in range(rows):
        for j in range(columns):
            left = plane[i, j - 1] if j else (plane[i - 1, j] if i else 0)
            above = plane[i - 1, j] if i else left
            corner = plane[i - 1, j - 1] if i and j else (plane[i - 1, j] if i else left)
            if corner >= max(left, above):
                predicted = min(left, above)
            elif corner <= min(left, above):
                predicted = max(left, above)
            else:
                predicted = left + above - corner
            residual = (plane[i, j] - predicted) % 256
            length -= math.log(counts[residual] / counts.sum())
            counts[residual] += 1
    return length


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 4), (2, 3, 7), (3, 6, 5), (4, 1, 6), (1, 6, 1)])
def test_the_predictive_length_is_that_of_a_sequential_code(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    planes = images.astype(int)
    if shape[0] == 3:
        planes[:, 0] = (planes[:, 0] - planes[:, 1]) % 256
        planes[:, 2] = (planes[:, 2] - planes[:, 1]) % 256
    want = [sum(coded_by_loop(plane) for plane in image) for image in planes]
    np.testing.assert_allclose(predictive_length(images), want, rtol=1e-12)


def test_the_predictive_length_grows_with_what_cannot_be_predicted():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8) * 9, (1, 3, 16, 16)).copy()
    lengths = [predictive_length(x)[0] for x in (np.zeros_like(noise), ramp, noise)]
    assert lengths == sorted(lengths) and lengths[0] > 0
    assert lengths[2] > 0.9 * 768 * math.log(256)  # of which every plane's first 256 pixels are learnt from
    assert predictive_length(np.zeros((1, 8, 8), np.uint8))[0] == pytest.approx(
        gammaln(64 + 128) - gammaln(128) - gammaln(64.5) + gammaln(0.5)
    )


def test_images_of_any_whole_dtype_have_a_predictive_length_and_nothing_else_has():
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 5), dtype=np.uint8)
    want = predictive_length(images).reshape(3, 2)
    for dtype in (np.uint8, np.int16, np.int64):
        lengths = PredictiveLength().extract(request_of(images.astype(dtype), 2))["predictive_length"]
        np.testing.assert_array_equal(lengths, want)
    wide = images.astype(np.int32)
    wide[4, 0, 0, 0] = 256
    lengths = PredictiveLength().extract(request_of(wide))["predictive_length"][:, 0]
    np.testing.assert_array_equal(lengths > 0, [True, True, True, True, False, True])
    for x in (images.astype(np.float32), images.reshape(6, -1), np.zeros((6, 1, 0, 5), np.uint8)):
        np.testing.assert_array_equal(PredictiveLength().extract(request_of(x))["predictive_length"], np.zeros((6, 1)))


def test_the_batch_does_not_change_a_predictive_length():
    images = np.random.default_rng(1).integers(0, 256, (7, 3, 4, 4), dtype=np.uint8)
    np.testing.assert_array_equal(
        predictive_length(images), np.concatenate([predictive_length(image[None]) for image in images])
    )
