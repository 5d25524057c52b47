"""Initial weights as a function of a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def initial_seed(seed: int) -> Iterator[None]:
    """Let layers made inside draw their weights from ``seed``, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def zero_(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a layer's weights to zero, so that its block starts as the identity, and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
