"""What must hold before a per-sample gradient means anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from fisherscope.core.errors import ModelError
from fisherscope.features.gradients.batch import Batch
from fisherscope.features.gradients.logprob import BoundLogProb, check_log_prob

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
_ROUGHLY = {torch.float64: 1e-5, torch.float32: 5e-2}


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


class LayerMode(NamedTuple):
    """How a layer runs.

    Attributes:
        training: whether in train mode.
        hooked: whether it has hooks on its backward pass, which may change gradients.
    """

    training: bool
    hooked: bool


def check_modes(module: nn.Module) -> tuple[LayerMode, ...]:
    """Refuse layers that mix samples or draw noise in train mode; return how each layer runs.

    Raises:
        ModelError: naming the layer.
    """
    layers = list(module.named_modules())
    everywhere = bool(nn.modules.module._global_backward_hooks or nn.modules.module._global_backward_pre_hooks)
    for name, layer in layers:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            raise ModelError(
                f"layer '{name}' ({type(layer).__name__}) normalises with the statistics of the batch, so one sample "
                "has no log p and no gradient of its own; call module.eval()"
                + ("" if layer.training else " and give it running statistics")
            )
        if layer.training and _drop_probability(layer) > 0:
            raise ModelError(
                f"layer '{name}' ({type(layer).__name__}) drops units at random in train mode; call module.eval()"
            )
    return tuple(
        LayerMode(layer.training, everywhere or bool(layer._backward_hooks or layer._backward_pre_hooks))
        for _, layer in layers
    )


def _drop_probability(layer: nn.Module) -> float:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return float(layer.p)
    if isinstance(layer, (nn.MultiheadAttention, nn.RNNBase)):
        return float(layer.dropout)
    return float(isinstance(layer, nn.RReLU))


def without_autocast(module: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which autocast around a call is off: a score must not depend on who asks for it."""
    kind = next((p.device.type for p in module.parameters()), "cpu")
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


@contextmanager
def unchanged_state(module: nn.Module) -> Iterator[None]:
    """Check that a forward pass leaves parameters and buffers as they were; put changed buffers back.

    Raises:
        ModelError: naming the parameter or buffer.
    """
    versions = {name: (p, p._version) for name, p in module.named_parameters()}
    renormed = {id(p): p.detach().clone() for p in _renormed_tables(module)}
    buffers = {name: (b, b.detach().clone()) for name, b in module.named_buffers()}
    try:
        yield
    finally:
        # a changed state is the better explanation of whatever else went wrong
        changed = [name for name, (b, before) in buffers.items() if not torch.equal(b, before)]
        for name in changed:
            with torch.no_grad():
                buffers[name][0].copy_(buffers[name][1])
        written = {name: p for name, (p, version) in versions.items() if p._version != version}
        _check_state(
            [name for name, p in written.items() if not (id(p) in renormed and torch.equal(p, renormed[id(p)]))],
            changed,
        )


def _renormed_tables(module: nn.Module) -> Iterator[Tensor]:
    """Yield the tables that each lookup writes to, though not always other values: rows above a largest norm."""
    for layer in module.modules():
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.max_norm is not None:
            yield layer.weight


def _check_state(parameters: list[str], buffers: list[str]) -> None:
    if parameters:
        raise ModelError(
            f"log_prob changes parameter '{parameters[0]}' (a data-dependent initialisation?); call the model once "
            "before"
        )
    if buffers:
        raise ModelError(f"log_prob changes buffer '{buffers[0]}' in each forward pass; call module.eval()")


def check_alone(together: Tensor, again: Tensor, alone: Tensor, layers: str, copied: Callable[[], Tensor]) -> None:
    """Check that log p of a sample is the same in a batch, in that batch again, and by itself.

    Far from what a model has learnt, log p may be so large that round-off alone tells a batch from a single sample.
    Then the same batch size decides: a sample among others has the log p that it has among copies of itself.

    Args:
        together: log p (n,) in a batch.
        again: the same, computed a second time.
        alone: log p of each sample in a batch of one.
        layers: where samples may meet, for the message.
        copied: returns log p of each sample in a batch of n copies of it, see :func:`among_copies`.

    Raises:
        ModelError: it is not.
    """
    check_repeated(together, again)
    roughly = _ROUGHLY.get(together.dtype, _ROUGHLY[torch.float32])
    if not agree(together, alone) and not (agree(together, alone, roughly) and agree(together, copied())):
        worst = int((together - alone).abs().argmax())
        raise ModelError(
            f"log p of sample {worst} is {float(together[worst])} in a batch but {float(alone[worst])} by itself: "
            f"samples interact{layers}, or noise is not drawn by key; make log p a function of one sample"
        )


def check_repeated(first: Tensor, again: Tensor) -> None:
    """Check that log p (n,) of samples is the same a second time.

    Raises:
        ModelError: it is not.
    """
    if not agree(first, again):
        raise ModelError(
            f"log_prob is random: it gave {first.tolist()} and then {again.tolist()} for the same samples; make "
            "its noise a function of seed= and keys= (accept them as arguments), or switch it off"
        )


def log_p_of(log_prob: BoundLogProb, batch: Batch, seed: int) -> Tensor:
    """Return log p of samples, checked, (n,)."""
    return check_log_prob(log_prob(batch.tree(), seed, batch.keys), len(batch), batch.first).detach()


def among_copies(log_prob: BoundLogProb, batch: Batch, seed: int, rows: Sequence[int] | None = None) -> Tensor:
    """Return log p of each sample, or of some, in a batch of as many copies of it as there are samples, (n,)."""
    copies = [batch.rows([i] * len(batch)) for i in (range(len(batch)) if rows is None else rows)]
    return torch.stack([log_prob(c.tree(), seed, c.keys).detach()[0] for c in copies])


def check_singly(log_prob: BoundLogProb, batch: Batch, seed: int) -> None:
    """Run :func:`check_alone` on the samples of a batch by forward passes."""
    alone = torch.cat([log_p_of(log_prob, batch.rows([i]), seed) for i in range(len(batch))])
    together, again = (log_p_of(log_prob, batch, seed) for _ in range(2))
    check_alone(together, again, alone, "", lambda: among_copies(log_prob, batch, seed))


def check_input_gradients(log_prob: BoundLogProb, batch: Batch, seed: int, layers: str) -> None:
    """Check that log p of a sample has no derivative with respect to the others, which no round-off hides.

    Args:
        log_prob: the model.
        batch: at least two samples; those without floating numbers cannot be checked.
        seed: seed of the model's noise.
        layers: where samples may meet, for the message.

    Raises:
        ModelError: it has.
    """
    leaves = [leaf.detach().clone() for leaf in batch.leaves]
    sources = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
    if not sources:
        return
    try:
        # the model gets copies, as it may change its input in place
        value = log_prob(batch.tree([leaf.clone() for leaf in leaves]), seed, batch.keys)
        ends = [torch.autograd.grad(value[i], sources, allow_unused=True, retain_graph=True) for i in (0, -1)]
    except Exception:  # no way from log p to the input (numpy, a hard decision, an assertion): values were compared
        return
    for row, gradients in zip((0, len(batch) - 1), ends, strict=True):
        for gradient in gradients:
            others = [] if gradient is None else _others(gradient, row)
            if others:
                raise ModelError(
                    f"log p of sample {batch.first + row} changes with sample {batch.first + others[0]}: samples "
                    f"interact{layers}; make log p a function of one sample"
                )


def _others(gradient: Tensor, row: int) -> list[int]:
    """Return the other samples that a derivative of one sample's log p reaches, beyond round-off."""
    # 0 times infinity on the way back is NaN and no sign of anything
    size = torch.where(gradient.isfinite(), gradient.abs(), 0).reshape(len(gradient), -1).amax(1)
    reached = size > 64 * torch.finfo(size.dtype).eps * size.max()
    return [i for i in reached.nonzero().flatten().tolist() if i != row]


def agree(a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
    """Return whether log p of samples is the same twice, but for round-off."""
    tolerance = tolerance or _TOLERANCE.get(a.dtype, _ROUGHLY[torch.float32])
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
