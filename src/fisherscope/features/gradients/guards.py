"""What must hold before a per-sample gradient means anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from fisherscope.core.errors import ModelError

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


def trainable_parameters(module: nn.Module) -> dict[str, Parameter]:
    """Return the parameters that require a gradient, by name, tied ones once.

    Raises:
        ModelError: there are none.
    """
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not found:
        raise ModelError(
            f"{type(module).__name__} has no parameter with requires_grad=True; its gradient features are empty: "
            "unfreeze some parameters"
        )
    return found


def check_modes(module: nn.Module) -> None:
    """Refuse layers that mix samples or draw noise in train mode.

    Raises:
        ModelError: naming the layer.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            raise ModelError(
                f"layer '{name}' ({type(layer).__name__}) normalises with the statistics of the batch, so one sample "
                "has no gradient of its own; call module.eval()"
                + ("" if layer.training else " and give it running statistics")
            )
        if layer.training and _drop_probability(layer) > 0:
            raise ModelError(
                f"layer '{name}' ({type(layer).__name__}) drops units at random in train mode; call module.eval()"
            )


def _drop_probability(layer: nn.Module) -> float:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return float(layer.p)
    if isinstance(layer, (nn.MultiheadAttention, nn.RNNBase)):
        return float(layer.dropout)
    return float(isinstance(layer, nn.RReLU))


@contextmanager
def unchanged_state(module: nn.Module) -> Iterator[None]:
    """Check that a forward pass leaves parameters and buffers as they were; put changed buffers back.

    Raises:
        ModelError: naming the parameter or buffer.
    """
    versions = {name: (p, p._version) for name, p in module.named_parameters()}
    buffers = {name: (b, b.detach().clone()) for name, b in module.named_buffers()}
    try:
        yield
    finally:
        # a changed state is the better explanation of whatever else went wrong
        changed = [name for name, (b, before) in buffers.items() if not torch.equal(b, before)]
        for name in changed:
            with torch.no_grad():
                buffers[name][0].copy_(buffers[name][1])
        _check_state([name for name, (p, version) in versions.items() if p._version != version], changed)


def _check_state(parameters: list[str], buffers: list[str]) -> None:
    if parameters:
        raise ModelError(
            f"log_prob changes parameter '{parameters[0]}' (a data-dependent initialisation?); call the model once "
            "before"
        )
    if buffers:
        raise ModelError(f"log_prob changes buffer '{buffers[0]}' in each forward pass; call module.eval()")


def check_alone(together: Tensor, again: Tensor, alone: Tensor, layers: str) -> None:
    """Check that log p of a sample is the same in a batch, in that batch again, and by itself.

    Args:
        together: log p (n,) in a batch.
        again: the same, computed a second time.
        alone: log p of each sample in a batch of one.
        layers: where samples may meet, for the message.

    Raises:
        ModelError: it is not.
    """
    if not _close(together, again):
        raise ModelError(
            f"log_prob is random: it gave {together.tolist()} and then {again.tolist()} for the same samples; make "
            "its noise a function of seed= and keys= (accept them as arguments), or switch it off"
        )
    if not _close(together, alone):
        worst = int((together - alone).abs().argmax())
        raise ModelError(
            f"log p of sample {worst} is {float(together[worst])} in a batch but {float(alone[worst])} by itself: "
            f"samples interact{layers}, or noise is not drawn by key; make log p a function of one sample"
        )


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = _TOLERANCE.get(a.dtype, 5e-2)
    scale = 1 + torch.maximum(a.abs(), b.abs())
    return bool(((a - b).abs() <= tolerance * scale).all())


def graph_leaves(value: Tensor) -> list[Tensor]:
    """Return every leaf tensor that the autograd graph of ``value`` ends in."""
    leaves: list[Tensor] = []
    seen = set()
    stack = [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        stack += [following for following, _ in node.next_functions]
    return leaves


def leaked(leaves: list[Tensor], parameters: Mapping[str, Parameter]) -> list[str]:
    """Return the names of the parameters among some leaves: autograd still sees them, so no rule served them."""
    ids = {id(leaf) for leaf in leaves}
    return [name for name, parameter in parameters.items() if id(parameter) in ids]
