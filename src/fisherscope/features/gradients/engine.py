"""The batched pass: plan, micro-batches, tape, and the loop for what the tape cannot serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Parameter

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.features.gradients.batch import Batch
from fisherscope.features.gradients.component import UnsupportedError
from fisherscope.features.gradients.forms import DenseForm
from fisherscope.features.gradients.job import Job
from fisherscope.features.gradients.loop import group_gradient, loop_pass
from fisherscope.features.gradients.plan import PROBE_SIZES, plan_for, remember, require_steady
from fisherscope.features.gradients.reductions import check_reductions
from fisherscope.features.gradients.run import tape_pass
from fisherscope.features.gradients.uses import Plan, PlanMismatchError
from fisherscope.features.gradients.verification import rechecked, require_alone


def batched_pass(job: Job, batch: Batch, max_memory: int | None) -> Tensor:
    """Feed the reductions; return log p (n,)."""
    # one group costs least by plain autograd, which however knows nothing but the gradient itself
    if batch.n_groups == 1 and not any(reduction.needs_factors for reduction in job.reductions):
        require_steady(job, batch)
        return looped_pass(job, batch)
    plan = plan_for(job, batch)
    pieces = micro_batches(batch, plan, max_memory)
    check_reductions(list(job.reductions), len(pieces))
    values = []
    for piece in pieces:
        try:
            values.append(_followed(job, plan, piece))
        except PlanMismatchError:
            # the model changed, or branches on its data: probe these samples
            plan = plan_for(job, piece, fresh=True)
            try:
                values.append(_followed(job, plan, piece))
            except PlanMismatchError:
                values.append(looped_pass(job, piece))
    return torch.cat(values)


def _followed(job: Job, plan: Plan, batch: Batch) -> Tensor:
    """Feed the reductions by a plan, which is checked where it is time for that; return log p (n,)."""
    plan.passes.begin()
    checkable = batch.n_groups > 1 and not plan.loop_all
    if checkable and plan.passes.thorough:
        checked = rechecked(plan, job, batch)
        if checked is not plan and checked.settled:
            remember(job, batch, checked)
        return _piece(job, checked, batch)
    log_p = _piece(job, plan, batch)
    if checkable and plan.passes.quick:
        try:
            require_alone(job, batch, log_p)
        except ModelError:
            plan.passes.distrust()
            raise
    return log_p


def micro_batches(batch: Batch, plan: Plan, max_memory: int | None) -> list[Batch]:
    """Cut a batch into runs of whole groups whose estimated memory is within the budget."""
    if max_memory is None or plan.loop_all:
        return [batch]
    if max_memory <= 0:
        raise SettingError(f"max_memory is {max_memory}; expected a positive number of bytes")
    each = max(1, plan.bytes_per_sample * batch.group_size)
    size = max(1, min(batch.n_groups, (max_memory - plan.bytes_fixed) // each))
    return [batch.groups(i, min(i + size, batch.n_groups)) for i in range(0, batch.n_groups, size)]


def _piece(job: Job, plan: Plan, batch: Batch) -> Tensor:
    if plan.loop_all:
        return looped_pass(job, batch)
    looped = plan.looped_of(job.hooked)
    try:
        log_p, tape = tape_pass(
            job.bound, batch, job.parameters, job.reductions, job.seed, plan.uses, frozenset(looped)
        )
    except UnsupportedError as reason:
        remember(job, batch, replace(plan, settled=False))
        raise ModelError(
            f"the batched pass failed in the middle ({reason}); call again, the model will be probed anew, or pass "
            "method='loop' to gradient_pass or gradient_norms"
        ) from reason
    if tape.revived:
        _confirm(job, plan, batch.rows(sorted(tape.revived)[: PROBE_SIZES[0]]))
    if looped:
        return _looped_at_once(job, batch, {name: job.parameters[name] for name in looped})
    return log_p


def _confirm(job: Job, plan: Plan, samples: Batch) -> None:
    """Check the layouts that the plan assumed, now that there are samples whose gradient reaches them."""
    fresh = plan_for(job, samples, fresh=True)
    again = "call again, the model has been probed anew"
    if fresh.loop_all or [use.key for use in fresh.uses] != [use.key for use in plan.uses]:
        raise ModelError(f"gradients reach parameters that none reached before, in another way than it seemed; {again}")
    for old, new in zip(plan.uses, fresh.uses, strict=True):
        if old.assumed and new.layout != old.layout:
            raise ModelError(
                f"the output of '{old.key.op}' on {', '.join(old.key.parameters)} does not carry the batch on its "
                f"first axis as it seemed to; {again}"
            )
    if late := sorted(fresh.looped.keys() - plan.looped.keys()):
        raise ModelError(f"the batched gradient of {', '.join(late)} was not the loop's after all; {again}")


def looped_pass(job: Job, batch: Batch) -> Tensor:
    """Feed the reductions by the plain loop; return log p (n,)."""
    if any(reduction.whole_batch for reduction in job.reductions):
        return _looped_at_once(job, batch, job.parameters)
    return loop_pass(job.bound, batch, job.parameters, job.reductions, job.seed)


def _looped_at_once(job: Job, batch: Batch, parameters: Mapping[str, Parameter]) -> Tensor:
    """Loop over the groups, but give the reductions all groups of a parameter in one piece."""
    rows = [group_gradient(job.bound, batch.groups(m, m + 1), parameters, job.seed) for m in range(batch.n_groups)]
    for name in parameters:
        form = DenseForm(torch.stack([gradients[name] for _, gradients in rows]))
        for reduction in job.reductions:
            reduction.update(name, form)
    return torch.cat([value for values, _ in rows for value in values])
