"""The batched pass: plan, micro-batches, tape, and the loop for what the tape cannot serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.features.gradients.batch import Batch
from fisherscope.features.gradients.forms import DenseForm
from fisherscope.features.gradients.logprob import BoundLogProb, LogProb
from fisherscope.features.gradients.loop import group_gradient, loop_pass
from fisherscope.features.gradients.plan import Plan, plan_for
from fisherscope.features.gradients.reductions import Reduction, check_reductions
from fisherscope.features.gradients.run import tape_pass
from fisherscope.features.gradients.tape import PlanMismatchError
from fisherscope.features.gradients.weights import UnsupportedError


def batched_pass(
    module: nn.Module,
    log_prob: LogProb | None,
    bound: BoundLogProb,
    batch: Batch,
    parameters: Mapping[str, Parameter],
    reductions: Sequence[Reduction],
    seed: int,
    max_memory: int | None,
) -> Tensor:
    """Feed the reductions; return log p (n,)."""
    if batch.n_groups == 1:
        return loop_pass(bound, batch, parameters, reductions, seed)
    plan = plan_for(module, log_prob, bound, batch, parameters, seed)
    pieces = micro_batches(batch, plan, max_memory)
    check_reductions(list(reductions), len(pieces))
    values = []
    for piece in pieces:
        try:
            values.append(_piece(plan, bound, piece, parameters, reductions, seed))
        except PlanMismatchError:
            # the model changed, or branches on its data: probe these samples
            plan = plan_for(module, log_prob, bound, piece, parameters, seed, fresh=True)
            values.append(_last_resort(plan, bound, piece, parameters, reductions, seed))
    return torch.cat(values)


def micro_batches(batch: Batch, plan: Plan, max_memory: int | None) -> list[Batch]:
    """Cut a batch into runs of whole groups whose estimated memory is within the budget."""
    if max_memory is None or plan.loop_all:
        return [batch]
    if max_memory <= 0:
        raise SettingError(f"max_memory is {max_memory}; expected a positive number of bytes")
    each = max(1, plan.bytes_per_sample * batch.group_size)
    size = max(1, min(batch.n_groups, (max_memory - plan.bytes_fixed) // each))
    return [batch.groups(i, min(i + size, batch.n_groups)) for i in range(0, batch.n_groups, size)]


def _piece(
    plan: Plan,
    bound: BoundLogProb,
    batch: Batch,
    parameters: Mapping[str, Parameter],
    reductions: Sequence[Reduction],
    seed: int,
) -> Tensor:
    if plan.loop_all:
        return _one_update_loop(bound, batch, parameters, reductions, seed)
    try:
        log_p, _ = tape_pass(bound, batch, parameters, reductions, seed, plan.uses, frozenset(plan.looped))
    except UnsupportedError as reason:
        raise ModelError(f"the batched pass failed in the middle ({reason}); pass method='loop'") from reason
    if plan.looped:
        _one_update_loop(bound, batch, {name: parameters[name] for name in plan.looped}, reductions, seed)
    return log_p


def _last_resort(
    plan: Plan,
    bound: BoundLogProb,
    batch: Batch,
    parameters: Mapping[str, Parameter],
    reductions: Sequence[Reduction],
    seed: int,
) -> Tensor:
    try:
        return _piece(plan, bound, batch, parameters, reductions, seed)
    except PlanMismatchError:
        return _one_update_loop(bound, batch, parameters, reductions, seed)


def _one_update_loop(
    bound: BoundLogProb,
    batch: Batch,
    parameters: Mapping[str, Parameter],
    reductions: Sequence[Reduction],
    seed: int,
) -> Tensor:
    if not any(r.whole_batch for r in reductions):
        return loop_pass(bound, batch, parameters, reductions, seed)
    rows = [group_gradient(bound, batch.groups(m, m + 1), parameters, seed) for m in range(batch.n_groups)]
    for name in parameters:
        form = DenseForm(torch.stack([gradients[name] for _, gradients in rows]))
        for reduction in reductions:
            reduction.update(name, form)
    return torch.cat([value for values, _ in rows for value in values])
