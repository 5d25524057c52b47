"""A tiny model whose whole Fisher matrix can be written down, and plain autograd to write it."""

import numpy as np
import torch
from torch import nn

from fisherscope.core.keys import sample_keys
from fisherscope.features.extractors import GradientBlocks, Request
from fisherscope.features.gradients import gradient_pass


class Tiny(nn.Module):
    """A convolution, a linear map and a bare scale: 27 + 30 + 3 + 6 parameters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.linear = nn.Linear(10, 3)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)
        self.double()

    def log_prob(self, x):
        h = torch.tanh(self.conv(x[:, None])).flatten(1) * self.scale.repeat(6)
        pooled = h[:, :30].reshape(-1, 3, 10)
        return -torch.sin(self.linear(pooled)).square().sum((1, 2)) - 0.1 * h.square().sum(1)


def log_prob(module, x):
    return module.log_prob(x)


def samples(n, seed=0):
    """(n, 3, 4), more than the model's output needs of each."""
    return np.random.default_rng(seed).normal(size=(n, 3, 4))


def gradients(module, x):
    """Parameter name -> (n, R, C) by one backward pass a sample."""
    rows = []
    for one in torch.from_numpy(x):
        value = module.log_prob(one[None]).sum()
        rows.append(torch.autograd.grad(value, list(module.parameters())))
    names = [n for n, _ in module.named_parameters()]
    return {
        name: torch.stack([row[i].reshape(len(row[i]), -1) for row in rows]).numpy() for i, name in enumerate(names)
    }


def evenly_spaced(n, limit):
    return np.linspace(0, n, min(n, limit or n), endpoint=False).astype(int)


def passes_over(module, x, batch=7):
    """A RunPass over samples in batches."""

    def run(reductions, limit):
        chosen = x[evenly_spaced(len(x), limit)]
        for start in range(0, len(chosen), batch):
            part = torch.from_numpy(chosen[start : start + batch])
            gradient_pass(module, part, reductions, log_prob=log_prob)

    return run


def measured(metric, module, x, group_size=1):
    """The blocks of a fitted metric for samples."""
    request = Request(module, log_prob, x, sample_keys(x), group_size)
    return GradientBlocks(metric.features()).extract(request)


def flat(grads):
    """(n, P), all parameters side by side."""
    return np.concatenate([g.reshape(len(g), -1) for g in grads.values()], axis=1)
