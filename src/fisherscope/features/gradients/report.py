"""Which rule served each parameter, and what it cost: for the reader who wonders why something is slow."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch

from fisherscope.core.errors import DataError
from fisherscope.features.gradients.batch import Batch
from fisherscope.features.gradients.job import Job
from fisherscope.features.gradients.loop import loop_pass
from fisherscope.features.gradients.plan import plan_for
from fisherscope.features.gradients.reductions import SquaredNorms
from fisherscope.features.gradients.run import tape_pass
from fisherscope.features.gradients.uses import Plan, PlanMismatchError


@dataclass(frozen=True)
class RuleUse:
    """One parameter and how it was served.

    Attributes:
        parameter: its name.
        rules: names of the rules, in the order of its uses; "loop" with a reason; "unused".
        seconds: time spent in those rules (shared by the parameters of a use), or in the loop (shared by all that it
            serves).
        nbytes: bytes kept for them between forward and backward.
        zero: whether its gradient is zero, or round-off, for every sample.
    """

    parameter: str
    rules: tuple[str, ...]
    seconds: float
    nbytes: int
    zero: bool


@dataclass(frozen=True)
class RulesReport:
    """How a model is served; ``print`` it.

    Attributes:
        rows: one a trainable parameter.
        loop_all: why the whole model is looped, or None.
    """

    rows: tuple[RuleUse, ...]
    loop_all: str | None

    def __str__(self) -> str:
        width = max(len("parameter"), *(len(row.parameter) for row in self.rows))
        lines = [f"{'parameter':<{width}}  {'ms':>8}  {'KiB':>9}  rules"]
        for row in self.rows:
            rules = ", ".join(_counted(row.rules)) + (" [zero gradient]" if row.zero else "")
            lines.append(f"{row.parameter:<{width}}  {row.seconds * 1e3:8.2f}  {row.nbytes / 1024:9.1f}  {rules}")
        if self.loop_all:
            lines.append(f"The plain loop serves everything: {self.loop_all}.")
        return "\n".join(lines)


def make_report(job: Job, batch: Batch) -> RulesReport:
    """Run one pass and report on it."""
    if len(batch) < 2:
        raise DataError("one sample needs no batched rules; pass at least two")
    try:
        return _followed(job, batch, plan_for(job, batch))
    except PlanMismatchError:  # the model has changed since: probe it anew, as a pass would
        plan = plan_for(job, batch, fresh=True)
    try:
        return _followed(job, batch, plan)
    except PlanMismatchError as reason:
        return _looped(job, batch, f"this batch does not follow the probe, {reason}")


def _followed(job: Job, batch: Batch, plan: Plan) -> RulesReport:
    if plan.loop_all:
        return _looped(job, batch, plan.loop_all)
    looped_names = plan.looped_of(job.hooked)
    norms = SquaredNorms()
    names = list(job.parameters)
    _, tape = tape_pass(job.bound, batch, job.parameters, [norms], job.seed, plan.uses, frozenset(looped_names))
    # the loop runs once for all the parameters that it serves
    start = perf_counter()
    if looped_names:
        loop_pass(job.bound, batch, {name: job.parameters[name] for name in looped_names}, [norms], job.seed)
    looped = perf_counter() - start
    zero = _zeros(norms, names)
    rows = []
    for name in names:
        uses = [use for use in tape.uses if name in use.key.parameters]
        if name in looped_names:
            rows.append(RuleUse(name, (f"loop: {looped_names[name]}",), looped, 0, name in zero))
            continue
        rules = tuple(use.rule for use in uses if use.rule) or ("unused",)
        seconds, nbytes = sum(use.seconds for use in uses), sum(use.nbytes for use in uses)
        rows.append(RuleUse(name, rules, seconds, nbytes, name in zero))
    return RulesReport(tuple(rows), None)


def _looped(job: Job, batch: Batch, reason: str) -> RulesReport:
    norms = SquaredNorms()
    start = perf_counter()
    loop_pass(job.bound, batch, job.parameters, [norms], job.seed)
    spent, zero = perf_counter() - start, _zeros(norms, list(job.parameters))
    return RulesReport(tuple(RuleUse(name, ("loop",), spent, 0, name in zero) for name in job.parameters), reason)


def _zeros(norms: SquaredNorms, names: list[str]) -> set[str]:
    found = norms.result(names)
    total = torch.stack([value.double() for value in found.values()]).sum(0).sqrt()
    return {
        name for name, value in found.items() if bool((value.double().sqrt() <= _round_off(value.dtype) * total).all())
    }


def _round_off(dtype: torch.dtype) -> float:
    return 64 * torch.finfo(dtype).eps


def _counted(rules: tuple[str, ...]) -> list[str]:
    return [rule if rules.count(rule) == 1 else f"{rules.count(rule)} x {rule}" for rule in dict.fromkeys(rules)]
