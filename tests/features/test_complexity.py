"""Lempel-Ziv code lengths against parses by hand, those of images against sequential codes, number by number."""

import math
from collections import defaultdict

import numpy as np
import pytest
from torch import nn

from fisherscope.features.complexity import (
    CodeLength,
    PredictiveLength,
    context_length,
    lempel_ziv_length,
    predictive_length,
)
from fisherscope.features.extractors import Request

SHAPES = [(1, 1, 1), (1, 5, 4), (2, 3, 7), (3, 6, 5), (4, 1, 6), (1, 6, 1), (6, 5)]


def request_of(x, group_size=1):
    return Request(nn.Linear(1, 1), None, x, np.arange(len(x), dtype=np.uint64), group_size)


def lengths_of(extractor, x, group_size=1):
    (block,) = extractor.blocks
    return extractor.extract(request_of(x, group_size))[block]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [("", 0), ("a", 1), ("aa", 2), ("aaa", 2), ("aaaaaa", 3), ("abab", 3), ("aababc", 3), ("abcdef", 6)],
)
def test_the_lempel_ziv_length_is_that_of_the_phrases(text, phrases):
    # a|a, a|aa, a|aa|aaa, a|b|ab, a|ab|abc
    want = phrases * (math.log(phrases) + math.log(256)) if phrases else 0.0
    assert lempel_ziv_length(text.encode()) == want


def test_the_lempel_ziv_length_grows_with_what_cannot_be_predicted():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 3072, dtype=np.uint8).tobytes()
    assert lempel_ziv_length(bytes(3072)) < lempel_ziv_length(bytes(range(64)) * 48) < lempel_ziv_length(noise)
    assert lempel_ziv_length(noise) > 3072 * math.log(256)  # no code of noise is shorter than noise


def test_a_text_has_a_lempel_ziv_length_whatever_dtype_batch_and_group():
    words = np.random.default_rng(0).integers(0, 40, (6, 25), dtype=np.uint8)
    alone = np.array([lempel_ziv_length(row.tobytes()) for row in words])
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        np.testing.assert_array_equal(lengths_of(CodeLength(), words.astype(dtype), 2), alone.reshape(3, 2))
    np.testing.assert_array_equal(lengths_of(PredictiveLength(), words), np.zeros((6, 1)))


def test_large_numbers_of_a_text_count_with_all_their_bytes():
    tokens = np.array([[1, 2, 300, 4]])
    want = lempel_ziv_length(bytes([1, 2, 300 % 256, 4, 0, 0, 1, 0]))
    np.testing.assert_array_equal(lengths_of(CodeLength(), tokens), [[want]])


def test_floating_numbers_have_none_and_only_whole_ones_of_a_pytree_count():
    x = np.random.default_rng(0).normal(size=(4, 7))
    for extractor in (CodeLength(), PredictiveLength()):
        np.testing.assert_array_equal(lengths_of(extractor, x), np.zeros((4, 1)))
    words = np.arange(12, dtype=np.int64).reshape(4, 3)
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 5, 5), dtype=np.uint8)
    both = Request(nn.Linear(1, 1), None, {"x": x, "words": words, "images": images}, np.arange(4, dtype=np.uint64))
    want = [lempel_ziv_length(bytes(row)) for row in words.tolist()] + context_length(images)
    np.testing.assert_allclose(CodeLength().extract(both)["code_length"][:, 0], want, rtol=1e-14)
    np.testing.assert_array_equal(
        PredictiveLength().extract(both)["predictive_length"][:, 0], predictive_length(images)
    )


def neighbours(plane, i, j):
    left = plane[i, j - 1] if j else (plane[i - 1, j] if i else 0)
    above = plane[i - 1, j] if i else left
    corner = plane[i - 1, j - 1] if i and j else (plane[i - 1, j] if i else left)
    return left, above, corner


def sequential(letters):
    """Length of the code of (context, letter) pairs: every letter by its probability given those before it."""
    counts, length = defaultdict(lambda: np.full(256, 0.5)), 0.0
    for context, letter in letters:
        seen = counts[context]
        length -= math.log(seen[letter] / seen.sum())
        seen[letter] += 1
    return length


def context_letters(planes):
    for plane in planes:
        for i, j in np.ndindex(plane.shape):
            left, above, _ = neighbours(plane, i, j)
            yield (left // 64, above // 64), plane[i, j]


def predictive_letters(planes):
    for which, plane in enumerate(planes):
        for i, j in np.ndindex(plane.shape):
            left, above, corner = neighbours(plane, i, j)
            if corner >= max(left, above):
                predicted = min(left, above)
            elif corner <= min(left, above):
                predicted = max(left, above)
            else:
                predicted = left + above - corner
            yield which, (plane[i, j] - predicted) % 256


def images_of(shape, n=3):
    images = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
    return images, images.astype(int).reshape(n, -1, *shape[-2:])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_context_length_is_that_of_a_sequential_code(shape):
    images, planes = images_of(shape)
    want = [sequential(context_letters(image)) for image in planes]
    np.testing.assert_allclose(context_length(images), want, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_predictive_length_is_that_of_a_sequential_code(shape):
    images, planes = images_of(shape)
    if shape[:-2] == (3,):
        planes[:, 0] = (planes[:, 0] - planes[:, 1]) % 256
        planes[:, 2] = (planes[:, 2] - planes[:, 1]) % 256
    want = [sequential(predictive_letters(image)) for image in planes]
    np.testing.assert_allclose(predictive_length(images), want, rtol=1e-12)


def test_each_code_finds_what_it_is_for():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1, 1, 32, 32), dtype=np.uint8)
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, noise.shape).copy()
    palette = rng.choice(rng.permutation(256)[:8], noise.shape).astype(np.uint8)  # rough, but of eight letters only
    for code in (context_length, predictive_length):
        lengths = [code(x)[0] for x in (np.zeros_like(noise), ramp, noise)]
        assert lengths == sorted(lengths) and lengths[0] > 0
        assert lengths[2] > 0.95 * 1024 * math.log(256)
    assert predictive_length(ramp) < context_length(ramp)
    assert context_length(palette) < predictive_length(palette)


@pytest.mark.parametrize(
    ("extractor", "code"), [(CodeLength(), context_length), (PredictiveLength(), predictive_length)]
)
def test_images_of_any_whole_dtype_have_both_lengths(extractor, code):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 5), dtype=np.uint8)
    for dtype in (np.uint8, np.int16, np.int64):
        np.testing.assert_array_equal(lengths_of(extractor, images.astype(dtype), 2), code(images).reshape(3, 2))
    wide = images.astype(np.int32)
    wide[4, 0, 0, 0] += 512  # one number of one sample has a second byte
    high = np.zeros_like(images[4:5])
    high[0, 0, 0, 0] = 2
    want = code(images)
    want[4] += code(high)[0]
    np.testing.assert_allclose(lengths_of(extractor, wide)[:, 0], want, rtol=1e-14)
    for none in (images.astype(np.float32), np.zeros((6, 1, 0, 5), np.uint8)):
        np.testing.assert_array_equal(lengths_of(extractor, none), np.zeros((6, 1)))


@pytest.mark.parametrize("code", [context_length, predictive_length])
def test_the_batch_does_not_change_a_length(code):
    images = np.random.default_rng(1).integers(0, 256, (7, 3, 4, 4), dtype=np.uint8)
    np.testing.assert_array_equal(code(images), np.concatenate([code(image[None]) for image in images]))
