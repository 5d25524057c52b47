"""Blocks against the functions they come from, and independence of batch, group size and process."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.features.extractors import GradientBlocks, LogProbability, Request, choose_extractors, extract_blocks
from fisherscope.features.gradients import gradient_norms, gradient_sketch, random_projection
from fisherscope.features.metrics.raw import SketchSettings

SKETCH = SketchSettings(size=32, layer_size=16, projection_seed=3)


def small_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 70), torch.nn.Tanh(), torch.nn.Linear(70, 70)).double()


def log_prob(module, x):
    return -module(x).square().sum(1)


def request_of(x, group_size=1, **kwargs):
    return Request(small_model(), log_prob, x, sample_keys(x), group_size, **kwargs)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(12, 6))


@pytest.mark.parametrize("group_size", [1, 3])
def test_blocks_are_what_the_public_functions_return(x, group_size):
    request = request_of(x, group_size)
    blocks = extract_blocks(choose_extractors(["grad_norm", "sketch", "layer_sketch"], SKETCH), request)
    module, tensors = request.module, torch.from_numpy(x)
    norms = gradient_norms(module, tensors, log_prob=log_prob, group_size=group_size)
    np.testing.assert_allclose(blocks["grad_norm"], torch.stack(list(norms.values()), 1), rtol=1e-12)
    whole = gradient_sketch(module, tensors, log_prob=log_prob, size=32, projection_seed=3)
    np.testing.assert_allclose(blocks["sketch"].reshape(12, 32), whole, rtol=1e-12)
    layers = gradient_sketch(module, tensors, log_prob=log_prob, size=16, projection_seed=3, per_layer=True)
    found = blocks["layer_sketch"].reshape(12, 16, 4)
    np.testing.assert_allclose(found, torch.stack(list(layers.values()), 2), rtol=1e-12)
    assert blocks["layer_sketch"].shape == (12 // group_size, group_size, 16, 4)
    np.testing.assert_allclose(blocks["log_p"].ravel(), log_prob(module, tensors).detach(), rtol=1e-12)


def test_sketches_of_members_add_up_to_the_groups(x):
    blocks = extract_blocks(choose_extractors(["sketch"], SKETCH), request_of(x, 4))
    whole = gradient_sketch(
        small_model(), torch.from_numpy(x), log_prob=log_prob, size=32, projection_seed=3, group_size=4
    )
    np.testing.assert_allclose(blocks["sketch"].sum(1), whole, rtol=1e-10)


def test_sketches_do_not_depend_on_the_batch(x):
    extractors = choose_extractors(["sketch"], SKETCH)
    whole = extract_blocks(extractors, request_of(x))["sketch"]
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_allclose(extract_blocks(extractors, request_of(x[order]))["sketch"], whole[order], rtol=1e-10)
    np.testing.assert_allclose(extract_blocks(extractors, request_of(x[:5]))["sketch"], whole[:5], rtol=1e-10)


def test_projections_are_the_same_in_another_process():
    code = (
        "import torch\n"
        "from fisherscope.features.gradients import random_projection\n"
        "p = random_projection('2.weight', (70, 70), 32, 3)\n"
        "print(float(p.left.sum()).hex(), float(p.right.sum()).hex())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    here = random_projection("2.weight", (70, 70), 32, 3)
    assert done.stdout.split() == [float(here.left.sum()).hex(), float(here.right.sum()).hex()]


def test_the_card_says_how_sketches_were_made():
    (extractor,) = choose_extractors(["grad_norm", "sketch"], SKETCH)
    assert extractor.settings(small_model()) == {
        "grad_norm": {"sizes": [420, 70, 4900, 70]},
        "sketch": {"size": 32, "projection_seed": 3},
    }
    assert extractor.columns(small_model()) == {"grad_norm": ("0.weight", "0.bias", "2.weight", "2.bias")}


def test_a_small_model_gets_a_sketch_of_its_own_size(x):
    module = torch.nn.Linear(6, 2).double()
    request = Request(module, log_prob, x, sample_keys(x))
    (extractor,) = choose_extractors(["sketch"])
    assert extractor.extract(request)["sketch"].shape == (12, 1, 14)
    assert extractor.settings(module)["sketch"]["size"] == 14


def test_fewest_passes():
    assert isinstance(choose_extractors(["log_p"])[0], LogProbability)
    (one,) = choose_extractors(["log_p", "grad_norm", "sketch"])
    assert isinstance(one, GradientBlocks) and one.blocks == ("grad_norm", "sketch", "log_p")


def test_unknown_blocks_and_sizes():
    with pytest.raises(SettingError, match=r"unknown blocks \['nope'\]; known: .*'grad_norm', .*'layer_sketch'"):
        choose_extractors(["nope"])
    with pytest.raises(SettingError, match="sketch sizes are 4 and 128, expected 8 or more"):
        SketchSettings(size=4)
