"""The engine against the plain loop: when a plan is made, and now and then while it is followed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from fisherscope.core.errors import FisherscopeError
from fisherscope.features.gradients import guards
from fisherscope.features.gradients.batch import Batch
from fisherscope.features.gradients.component import UnsupportedError
from fisherscope.features.gradients.job import Job
from fisherscope.features.gradients.loop import group_gradient
from fisherscope.features.gradients.reductions import SquaredNorms
from fisherscope.features.gradients.run import tape_pass
from fisherscope.features.gradients.uses import Plan, PlanMismatchError, spread

AGREEMENT: Final = {torch.float64: 1e-6, torch.float32: 2e-3}

_DIFFERS: Final = "the batched gradient differs from the loop's"


def verified(plan: Plan, job: Job, batch: Batch, reference: Sequence[Mapping[str, Tensor]]) -> Plan:
    """Return the plan with those parameters moved to the loop whose batched gradients differ from its own.

    Args:
        plan: of the model.
        job: with the model.
        batch: the samples of the probe.
        reference: the gradients of each, by the loop.
    """
    try:
        norms = _norms(plan, job, batch, compared=True)
    except (UnsupportedError, PlanMismatchError) as reason:
        return replace(plan, loop_all=str(reason))
    except (FisherscopeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as reason:  # the loop has served these samples: whatever stops the rules, the model works
        return replace(plan, loop_all=f"in the batched pass: {reason}")
    wrong = _differing(job.parameters, norms.found, reference)
    # Round-off alone may do that on samples far from what the model has learnt; others need not be looped for it.
    return replace(plan, looped=spread({**plan.looped, **wrong}, plan.uses), settled=False) if wrong else plan


def rechecked(plan: Plan, job: Job, batch: Batch) -> Plan:
    """Compare two groups of a batch with the loop, as a probe of three samples cannot see all that a model may do.

    A layer may take another way where there are more samples, or others: experts that some of them choose, statistics
    over four of them, noise or an interaction that is switched on later.

    Args:
        plan: to be followed on this batch.
        job: with the model.
        batch: at least two groups.

    Returns:
        The same plan, or one in which the loop serves what differs; a settled one is to be remembered.

    Raises:
        ModelError: samples interact, or log p is random.
        PlanMismatchError: this batch does not follow the plan.
    """
    try:
        norms = _norms(plan, job, batch)
    except UnsupportedError as reason:
        raise PlanMismatchError(str(reason)) from reason
    except (FisherscopeError, PlanMismatchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as reason:
        return replace(plan, loop_all=f"in the batched pass: {reason}")
    groups = _some_groups(batch)
    alone = [group_gradient(job.bound, batch.groups(m, m + 1), job.parameters, job.seed) for m in groups]
    rows = [i for m in groups for i in range(m * batch.group_size, (m + 1) * batch.group_size)]
    _require_alone(job, batch, rows, norms.log_p, torch.cat([value for values, _ in alone for value in values]))
    reference = [gradients for _, gradients in alone]
    wrong = _differing(job.parameters, {name: f[groups] for name, f in norms.found.items()}, reference)
    if not wrong:
        return plan
    looped = spread({**plan.looped, **wrong}, plan.uses)
    # the same among copies of the group, where nobody can take another's way: then it is round-off, and this batch's
    copies = [_norms(plan, job, _copies(batch, m)).found for m in groups]
    settled = any(
        name not in _differing(job.parameters, {name: found[name][:1]}, [gradients])
        for name in wrong
        for found, gradients in zip(copies, reference, strict=True)
    )
    return replace(plan, looped=looped, settled=settled)


def require_alone(job: Job, batch: Batch, log_p: Tensor) -> None:
    """Check that log p of two samples is in a batch what it is by themselves.

    Args:
        job: with the model.
        batch: at least two groups.
        log_p: of the samples, (n,).

    Raises:
        ModelError: samples interact, or log p is random.
    """
    rows = [m * batch.group_size for m in _some_groups(batch)]
    alone = torch.cat([guards.log_p_of(job.bound, batch.rows([row]), job.seed) for row in rows])
    _require_alone(job, batch, rows, log_p, alone)


def _require_alone(job: Job, batch: Batch, rows: list[int], log_p: Tensor, alone: Tensor) -> None:
    if not guards.agree(log_p[rows], alone):
        again = guards.log_p_of(job.bound, batch, job.seed)[rows]
        guards.check_alone(log_p[rows], again, alone, "", lambda: guards.among_copies(job.bound, batch, job.seed, rows))


class _Norms(NamedTuple):
    log_p: Tensor
    found: dict[str, Tensor]


def _norms(plan: Plan, job: Job, batch: Batch, *, compared: bool = False) -> _Norms:
    """Return log p and the squared norms of what the tape serves; ``compared``: whether each is with the loop's."""
    norms, looped = SquaredNorms(), plan.looped_of(job.hooked)
    skipped = frozenset(looped)
    log_p, _ = tape_pass(job.bound, batch, job.parameters, [norms], job.seed, plan.uses, skipped, compared=compared)
    return _Norms(log_p, norms.result([name for name in job.parameters if name not in looped]))


def _some_groups(batch: Batch) -> list[int]:
    """Return two groups, drawn by the samples themselves."""
    draw = torch.Generator().manual_seed(int(batch.keys[-1] >> 1))
    return sorted(torch.randperm(batch.n_groups, generator=draw)[:2].tolist())


def _copies(batch: Batch, group: int) -> Batch:
    each = range(group * batch.group_size, (group + 1) * batch.group_size)
    return batch.rows([*each] * batch.n_groups, batch.group_size)


def _differing(
    parameters: Mapping[str, Parameter], found: Mapping[str, Tensor], reference: Iterable[Mapping[str, Tensor]]
) -> dict[str, str]:
    """Return the parameters whose squared norms (M,) are not those of M gradients, with the reason."""
    exact = {name: torch.stack([torch.linalg.vector_norm(g[name]).double() for g in reference]) for name in parameters}
    floor = torch.stack(list(exact.values())).norm(dim=0)
    wrong = {}
    for name, squares in found.items():
        kind = parameters[name].dtype.to_real()
        error = (squares.double().sqrt() - exact[name]).abs()
        if not bool((error <= AGREEMENT.get(kind, 0.3) * exact[name] + 64 * torch.finfo(kind).eps * floor).all()):
            wrong[name] = _DIFFERS
    return wrong
