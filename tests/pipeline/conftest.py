"""A tiny Glow of 8x8 digits: real images, seconds of work."""

import numpy as np
import pytest
import torch

from fisherscope.data import load_samples
from fisherscope.models.glow import Glow
from fisherscope.pipeline.target import Target


@pytest.fixture(scope="session")
def digits():
    """Test digits, 599 of 8x8."""
    return load_samples("digits[test]")


@pytest.fixture(scope="session")
def make_glow():
    """Return a function that makes the tiny Glow, actnorms set from data and the other weights not trivial."""

    def make(dtype=torch.float32, **settings):
        torch.manual_seed(0)
        train = load_samples("digits[train]")
        glow = Glow((1, 8, 8), **{"levels": 2, "steps": 2, "hidden": 8, **settings})
        glow.initialise(torch.from_numpy(train.x[:100]), keys=train.keys[:100])
        with torch.no_grad():
            for parameter in glow.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        glow.train_keys = np.sort(train.keys)
        return glow.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def glow(make_glow):
    return make_glow()


@pytest.fixture(scope="session")
def target(glow):
    return Target(glow, None, "tiny-glow")
