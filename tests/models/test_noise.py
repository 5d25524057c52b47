from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fisherscope.core.errors import ModelError
from fisherscope.core.keys import sample_keys
from fisherscope.models.noise import keys_of, normal_noise, uniform_noise

LIKE = torch.zeros(1)
KEYS = np.array([3, 2**64 - 1, 0, 7], dtype=np.uint64)


@given(
    seed=st.integers(-(2**63), 2**64 - 1), stream=st.integers(0, 2**32), shape=st.lists(st.integers(1, 4), max_size=3)
)
@settings(max_examples=25, deadline=None)
def test_a_draw_belongs_to_its_key(seed: int, stream: int, shape: list[int]) -> None:
    together = normal_noise(KEYS, shape, seed=seed, stream=stream, like=LIKE)
    assert together.shape == (4, *shape)
    order = [2, 0, 3, 1]
    assert torch.equal(normal_noise(KEYS[order], shape, seed=seed, stream=stream, like=LIKE), together[order])
    for i in range(4):
        alone = normal_noise(KEYS[i : i + 1], shape, seed=seed, stream=stream, like=LIKE)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("draw", [uniform_noise, normal_noise])
def test_key_seed_and_stream_each_change_the_draw(draw) -> None:
    base = draw(KEYS, (5,), seed=0, like=LIKE)
    assert len({tuple(row.tolist()) for row in base}) == len(KEYS)
    assert not torch.equal(base, draw(KEYS, (5,), seed=1, like=LIKE))
    assert not torch.equal(base, draw(KEYS, (5,), seed=0, stream=1, like=LIKE))
    assert not torch.equal(base, draw(KEYS, (5,), seed=-1, like=LIKE))


def test_float64_holds_the_same_numbers_as_float32() -> None:
    fine = uniform_noise(KEYS, (100,), seed=4, like=torch.zeros(1, dtype=torch.float64))
    assert torch.equal(fine.float(), uniform_noise(KEYS, (100,), seed=4, like=LIKE))


def test_keys_that_differ_in_their_last_bit_differ_in_their_noise() -> None:
    keys = np.array([2**63 + 4, 2**63 + 5], dtype=np.uint64)
    first, second = uniform_noise(keys, (4,), seed=0, like=LIKE)
    assert not torch.equal(first, second)


def test_moments() -> None:
    keys = np.arange(400, dtype=np.uint64)
    like = torch.zeros(1, dtype=torch.float64)
    u, z = uniform_noise(keys, (250,), seed=0, like=like), normal_noise(keys, (250,), seed=0, like=like)
    # 100,000 draws: the standard errors are 0.0009 (mean of u), 0.0032 (mean of z) and 0.0045 (variance of z)
    assert abs(u.mean().item() - 0.5) < 0.004 and u.min() >= 0 and u.max() < 1
    assert abs(u.var().item() - 1 / 12) < 0.001
    assert abs(z.mean().item()) < 0.013 and abs(z.var().item() - 1) < 0.018


def test_uniform_noise_stays_below_one_in_every_dtype() -> None:
    keys = np.arange(64, dtype=np.uint64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert uniform_noise(keys, (4096,), seed=0, like=torch.zeros(1, dtype=dtype)).max() < 1


def test_draws_are_pinned() -> None:
    # Scores of stored tables rest on these numbers: a change of generator must not pass unnoticed.
    noise = uniform_noise(KEYS, (8,), seed=42, stream=1, like=torch.zeros(1, dtype=torch.float64)).numpy()
    digest = hashlib.blake2b(noise.astype("<f8").tobytes(), digest_size=8).hexdigest()
    assert digest == "257793b5cd1a59d5"


def test_keys_of() -> None:
    x = torch.randint(0, 256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = sample_keys(x.numpy())
    for dtype in (torch.uint8, torch.float32, torch.float64, torch.bfloat16):  # bfloat16 holds 0..255 exactly
        assert np.array_equal(keys_of(x.to(dtype), None), expected)
    assert keys_of(x, KEYS[:3]) is not None
    with pytest.raises(ModelError, match="4 keys were given for 3 samples"):
        keys_of(x, KEYS)
