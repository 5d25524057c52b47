"""Zuko flows (extra ``flows``): a flow module and this callable make a model.

``fisherscope.gradient_norms(flow, x, log_prob=zuko.log_prob)``; on the command line a factory that returns the pair
``(flow, zuko.log_prob)``.
"""

from __future__ import annotations

from torch import Tensor, nn


def log_prob(flow: nn.Module, x: Tensor) -> Tensor:
    """Return log p of rows x (n, D) under an unconditional lazy zuko flow, in nats, shape (n,)."""
    like = next(flow.parameters())
    value: Tensor = flow().log_prob(x.to(device=like.device, dtype=like.dtype))
    return value
