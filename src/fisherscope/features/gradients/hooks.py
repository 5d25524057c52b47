"""Hearing of gradients when a backward pass computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

Receive = Callable[[list[Tensor | None]], None]


def on_output(output: Tensor, receive: Receive) -> bool:
    """Receive the gradient of an op's one output; its node may run for another output's sake, without one.

    Returns:
        Whether that can be had: an output that no op made has no node.
    """
    node, slot = output.grad_fn, output.output_nr
    if node is None:
        return False
    # a hook on the node costs a third of one on the tensor
    node.register_prehook(lambda gradients: None if gradients[slot] is None else receive([gradients[slot]]))
    return True


def on_outputs(outputs: Sequence[Tensor], receive: Receive) -> None:
    """Receive the gradients of an op's outputs once, zeros for those without one, None for those that take none."""
    slots = [i for i, t in enumerate(outputs) if t.requires_grad]
    zeros = [torch.zeros_like(outputs[i]) for i in slots]
    count = len(outputs)

    def hook(gradients: Sequence[Tensor | None]) -> None:
        full: list[Tensor | None] = [None] * count
        for slot, gradient, zero in zip(slots, gradients, zeros, strict=True):
            full[slot] = zero if gradient is None else gradient
        receive(full)

    torch.autograd.graph.register_multi_grad_hook([outputs[i] for i in slots], hook)


def on_leaves(leaves: Sequence[Tensor], receive: Receive) -> None:
    """Receive the gradients of some leaves that are all operands of one op, when the last has come."""
    found: list[Tensor | None] = [None] * len(leaves)

    def note(slot: int, gradient: Tensor) -> None:
        found[slot] = gradient
        if all(g is not None for g in found):
            receive(found)

    for slot, leaf in enumerate(leaves):
        leaf.register_hook(partial(note, slot))  # type: ignore[no-untyped-call]


def tensors_are_packed() -> bool:
    """Whether what autograd saves goes through hooks now, those of a checkpoint above all."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
