"""Binding log-prob callables and keys of pytrees."""

from __future__ import annotations

import functools
import gc
import weakref

import numpy as np
import pytest
import torch
from gradient_reference import Model, call, normal
from torch import nn

from fisherscope.core.errors import DataError, ModelError
from fisherscope.core.keys import sample_keys
from fisherscope.features.gradients import bind_log_prob, gradient_norms, pytree_keys

KEYS = np.arange(2, dtype=np.uint64)


def test_seed_and_keys_go_to_those_who_take_them():
    module = nn.Linear(1, 1)
    seen = []

    def plain(m, x):
        seen.append((m, x))

    def seeded(m, x, *, seed):
        seen.append((m, x, seed))

    def anything(m, x, **extra):
        seen.append((m, x, sorted(extra)))

    for function in (plain, seeded, anything, functools.partial(seeded, module)):
        leading = bind_log_prob(module, function)
        if isinstance(function, functools.partial):
            with pytest.raises(TypeError):
                leading(0, 7, KEYS)
            continue
        leading(0, 7, KEYS)
    assert seen == [(module, 0), (module, 0, 7), (module, 0, ["keys", "seed"])]


def test_method_of_the_module_is_the_default():
    class Keyed(nn.Module):
        def log_prob(self, x, *, seed=0, keys=None):
            return x, seed, keys

    assert bind_log_prob(Keyed())(1, 5, KEYS) == (1, 5, KEYS)
    with pytest.raises(ModelError, match="Linear has no method log_prob"):
        bind_log_prob(nn.Linear(1, 1))


def test_keys_of_a_pytree_ignore_dtype_and_batch():
    image = torch.randint(256, (3, 2, 2), dtype=torch.uint8)
    tokens = torch.arange(3)[:, None]
    keys = pytree_keys({"image": image, "text": (tokens,)})
    assert keys.dtype == np.uint64 and len(set(keys.tolist())) == 3
    assert (pytree_keys({"image": image.float(), "text": (tokens,)}) == keys).all()
    assert (pytree_keys({"image": image[1:], "text": (tokens[1:],)}) == keys[1:]).all()
    assert (pytree_keys(image.bfloat16()) == sample_keys(image.numpy())).all()
    with pytest.raises(DataError, match="0-d tensor"):
        pytree_keys(torch.tensor(1.0))
    with pytest.raises(DataError, match="NoneType"):
        pytree_keys((image, None))


def test_pytrees_reach_the_model_as_they_were_given():
    model = Model(lambda m, x: m.a(x["a"] * x["b"][0]), a=nn.Linear(4, 3))
    x = {"a": normal(4, 4), "b": [normal(4, 1, seed=1)]}
    found, expected = (gradient_norms(model, x, log_prob=call, method=m) for m in ("batched", "loop"))
    torch.testing.assert_close(found["a.weight"], expected["a.weight"])


def test_plans_keep_no_model_alive():
    def score() -> weakref.ref[Model]:
        model = Model(lambda m, x: m.a(x), a=nn.Linear(4, 3))
        gradient_norms(model, normal(4, 4), log_prob=lambda m, x: model(x))
        return weakref.ref(model)

    gone = score()
    gc.collect()
    assert gone() is None
