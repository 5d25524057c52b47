"""One forward and one backward pass under the tape."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from fisherscope.features.gradients import guards
from fisherscope.features.gradients.batch import Batch
from fisherscope.features.gradients.component import UnsupportedError
from fisherscope.features.gradients.forms import GradientForm
from fisherscope.features.gradients.logprob import BoundLogProb, check_log_prob
from fisherscope.features.gradients.reductions import Reduction
from fisherscope.features.gradients.rules.composite import opened
from fisherscope.features.gradients.tape import Tape
from fisherscope.features.gradients.uses import PlanMismatchError, UsePlan


def forward(tape: Tape, log_prob: BoundLogProb, batch: Batch, seed: int) -> Tensor:
    """Return log p (n,), a tensor of the data graph even if it was computed from parameters alone."""
    leaves = [leaf.detach().clone() for leaf in batch.leaves]  # a model may change its input in place
    for leaf in leaves:
        tape.mark_data(leaf)
    with torch.enable_grad():
        with tape:
            found = log_prob(batch.tree(leaves), seed, batch.keys)
        value = check_log_prob(found, len(batch), batch.first)
        if value in tape.graph:
            nothing = torch.zeros_like(value)
            tape.mark_data(nothing)
            with tape:
                value = torch.add(nothing, value)
    return value


def backward(tape: Tape, value: Tensor, leaves: Sequence[Tensor], *, retain_graph: bool = False) -> None:
    """Run autograd through the data graph; the tape's hooks do the work.

    Args:
        tape: the tape of the forward pass.
        value: what to differentiate, a scalar.
        leaves: every leaf of its graph, so that no part of it is pruned.
        retain_graph: whether to keep the graph.
    """
    inputs = [leaf for leaf in leaves if leaf.requires_grad]
    if not inputs:
        return
    tape.backward_runs = tape.graph.complete = True
    # Checkpointed segments run their forward ops again and must meet the same detached weights: the mode stays on in
    # the backward pass, and so autograd.grad must not be handed to it as one opaque op.
    with tape:
        opened(torch.autograd.grad)(value, inputs, allow_unused=True, retain_graph=retain_graph)


@contextmanager
def _collector_paused() -> Iterator[None]:
    # A pass makes thousands of small objects, which sets off searches for cycles among all objects of the process;
    # its own have next to none. The searches take 1 to 2 % of a pass.
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@_collector_paused()
def tape_pass(
    log_prob: BoundLogProb,
    batch: Batch,
    parameters: Mapping[str, Parameter],
    reductions: Sequence[Reduction],
    seed: int,
    uses: Sequence[UsePlan],
    skipped: frozenset[str],
    *,
    compared: bool = False,
) -> tuple[Tensor, Tape]:
    """Feed the reductions with every parameter but the skipped ones; return log p (n,) and the tape.

    ``compared``: whether what every sample gets is compared with the loop afterwards.

    Raises:
        PlanMismatchError: the forward pass did not go as planned; nothing was fed.
    """

    def sink(name: str, form: GradientForm) -> None:
        if name not in skipped:
            for reduction in reductions:
                reduction.update(name, form)

    tape = Tape(parameters, len(batch), batch.group_size, sink, uses, skipped, compared=compared)
    try:
        value = forward(tape, log_prob, batch, seed)
    except UnsupportedError as reason:
        raise PlanMismatchError(str(reason)) from reason
    if len(tape.uses) != len(uses):
        raise PlanMismatchError(f"{len(tape.uses)} uses instead of {len(uses)}")
    leaves = guards.graph_leaves(value)
    leaked = guards.leaked(leaves, parameters)
    unserved = set(leaked) - skipped
    if unserved:
        raise PlanMismatchError(f"{sorted(unserved)} reach log p outside torch functions")
    log_p = value.detach()
    # what reaches the parameters by itself may be the user's own graph (weights that are computed once and kept)
    backward(tape, value.sum(), leaves, retain_graph=bool(leaked))
    with torch.no_grad():
        tape.graph.finish()
    return log_p, tape
