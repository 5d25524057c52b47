"""Once for each model and shape of input: find the batch in every use, check the engine against the loop, remember.

The probe runs a few samples at two batch sizes. It finds on which axis each op's output carries the samples
(``layout.py``), which parameters the tape cannot serve, and what a sample costs in memory; then it compares the
batched gradients of the probe samples with the plain loop. A parameter that fails any of this is served by the loop
from then on: exact, only slower. A model whose samples interact is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakMethod, ref

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from fisherscope.core.errors import ModelError
from fisherscope.features.gradients import guards
from fisherscope.features.gradients.batch import Batch
from fisherscope.features.gradients.component import UnsupportedError
from fisherscope.features.gradients.job import Job
from fisherscope.features.gradients.layout import Observation, infer_layout
from fisherscope.features.gradients.logprob import BoundLogProb
from fisherscope.features.gradients.loop import group_gradient
from fisherscope.features.gradients.memory import MemoryMeter
from fisherscope.features.gradients.run import backward, forward
from fisherscope.features.gradients.tape import Tape
from fisherscope.features.gradients.uses import Plan, Use, UsePlan, spread
from fisherscope.features.gradients.verification import verified

PROBE_SIZES: Final = (3, 2)
Kept = TypeVar("Kept")

CACHED_PLANS: Final = 32
"""Plans a model may have: kinds of input, and terms of log p, of which the paper's objective has 11."""

BACKWARD_SHARE: Final = 2
"""Peak memory of a pass over what its forward half keeps: gradients of activations, and the kernels' copies."""


_plans: WeakKeyDictionary[nn.Module, dict[Any, Plan]] = WeakKeyDictionary()
_steady: WeakKeyDictionary[nn.Module, dict[Any, None]] = WeakKeyDictionary()


def plan_for(job: Job, batch: Batch, *, fresh: bool = False) -> Plan:
    """Return the plan of a model in these modes for inputs like these, from memory unless ``fresh``."""
    known, key = _plans.setdefault(job.module, {}), _key(job, batch)
    if not fresh and key in known:
        return known[key]
    with guards.unchanged_state(job.module):
        plan = make_plan(job, batch)
    remember(job, batch, plan)
    return plan


def remember(job: Job, batch: Batch, plan: Plan) -> None:
    """Keep a settled plan for later batches like this one, and drop any other that was kept for them."""
    known, key = _plans.setdefault(job.module, {}), _key(job, batch)
    known.pop(key, None)
    if plan.settled:
        _keep(known, key, plan)


def _keep(known: dict[Any, Kept], key: object, value: Kept) -> None:
    while len(known) >= CACHED_PLANS:
        known.pop(next(iter(known)))
    known[key] = value


def _key(job: Job, batch: Batch) -> tuple[object, ...]:
    shapes = tuple((leaf.shape[1:], leaf.dtype, leaf.device) for leaf in batch.leaves)
    types = tuple((name, p.dtype, p.device) for name, p in job.parameters.items())
    return _weak_key(job.log_prob), str(batch.spec), shapes, job.modes, types


def require_steady(job: Job, group: Batch) -> None:
    """Check once that a model which judges one group, without a plan, is not random and stays as it is.

    Raises:
        ModelError: it is, or does not.
    """
    known, key = _steady.setdefault(job.module, {}), _key(job, group)
    if key in known:
        return
    with guards.unchanged_state(job.module):
        first, again = (guards.log_p_of(job.bound, group, job.seed) for _ in range(2))
    guards.check_repeated(first, again)
    _keep(known, key, None)


def _weak_key(log_prob: Callable[..., Tensor] | None) -> object:
    """Return a key that is equal for the same callable and does not keep it, or the module in its closure, alive."""
    if log_prob is None:
        return None
    try:
        key = WeakMethod(log_prob) if isinstance(log_prob, MethodType) else ref(log_prob)
        hash(key)
    except TypeError:
        return object()
    return key


def make_plan(job: Job, batch: Batch) -> Plan:
    """Probe a model with some samples of a batch."""
    bound, parameters, seed = job.bound, job.parameters, job.seed
    # the second probe runs backwards, so that a model which sorts its samples cannot look like one that does not
    first = [i % len(batch) for i in range(PROBE_SIZES[0])]
    samples = [batch.rows(first), batch.rows(first[PROBE_SIZES[1] - 1 :: -1])]
    alone = [group_gradient(bound, samples[0].rows([i]), parameters, seed) for i in range(PROBE_SIZES[0])]
    singly = torch.cat([values[0] for values, _ in alone])

    def copied() -> Tensor:
        return guards.among_copies(bound, samples[0], seed)

    try:
        if any(mode.hooked for mode in job.modes):
            raise UnsupportedError("a layer has hooks on its backward pass, which see one sample at a time in the loop")
        probes = [_Probe(bound, sample, parameters, seed) for sample in samples]
    except ModelError:
        raise
    except Exception as reason:  # the loop has just run: whatever stops the tape, the model itself works
        values, again = (bound(samples[0].tree(), seed, samples[0].keys).detach() for _ in range(2))
        guards.check_alone(values, again, singly, "", copied)
        guards.check_input_gradients(bound, samples[0], seed, "")
        return Plan(loop_all=str(reason) if isinstance(reason, UnsupportedError) else f"under the tape: {reason}")
    again = bound(samples[0].tree(), seed, samples[0].keys).detach()
    place = probes[0].meeting_place()
    guards.check_alone(probes[0].log_p, again, singly, place, copied)
    guards.check_input_gradients(bound, samples[0], seed, place)
    plan = _drafted(probes, parameters)
    return plan if plan.loop_all else verified(plan, job, samples[0], [g for _, g in alone])


class _Probe:
    """One forward pass and, for each sample, one backward pass that notes where its gradient goes."""

    def __init__(self, bound: BoundLogProb, batch: Batch, parameters: Mapping[str, Parameter], seed: int) -> None:
        self.n = len(batch)
        tape = Tape(parameters, self.n, 1, lambda name, form: None)
        with MemoryMeter() as meter:
            tape.meter = meter
            value = forward(tape, bound, batch, seed)
            tape.meter = None
        self.nbytes = meter.nbytes
        leaves = guards.graph_leaves(value)
        self.leaked = guards.leaked(leaves, parameters)
        for sample in range(self.n):
            tape.sample = sample
            backward(tape, value[sample], leaves, retain_graph=True)
        self.log_p = value.detach()
        self.uses: Sequence[Use] = tape.uses

    def observation(self, index: int) -> Observation:
        use = self.uses[index]
        return Observation(self.n, use.shape, [use.support.get(i, []) for i in range(self.n)])

    def meeting_place(self) -> str:
        """Say between which uses samples meet, if any output gradient belongs to several samples."""
        mixed = [use for use in self.uses if _mixed(use, self.n)]
        if not mixed:
            return ""
        return f" after the op '{mixed[-1].key.op}' on {', '.join(mixed[-1].key.parameters)}"


def _mixed(use: Use, n: int) -> bool:
    marks = [use.support.get(i) for i in range(n)]
    if any(not m for m in marks):
        return False
    return all(bool((a & b).any()) for a, b in zip(marks[0] or [], marks[1] or [], strict=True))


def _drafted(probes: Sequence[_Probe], parameters: Mapping[str, Parameter]) -> Plan:
    first, second = probes
    if [u.key for u in first.uses] != [u.key for u in second.uses]:
        return Plan(loop_all="the ops on parameters change with the batch")
    uses: list[UsePlan] = []
    looped: dict[str, str] = dict.fromkeys(first.leaked, "reaches log p outside torch functions")
    settled = True
    for index, use in enumerate(first.uses):
        seen = [probe.observation(index) for probe in probes]
        reached = any(o.reached for o in seen)
        layout = infer_layout(seen)
        sliceable = use.batch_sized and second.uses[index].batch_sized
        uses.append(UsePlan(use.key, use.shape, layout, sliceable, all(o.dead for o in seen)))
        if layout is None and reached:
            settled = settled and not all(o.dead for o in seen)
            looped |= dict.fromkeys(use.key.parameters, f"no batch axis in the output of '{use.key.op}'")
    each = BACKWARD_SHARE * max(0, first.nbytes - second.nbytes)
    return Plan(
        tuple(uses),
        spread(looped, uses),
        bytes_fixed=max(0, BACKWARD_SHARE * second.nbytes - each * second.n),
        bytes_per_sample=each,
        settled=settled,
    )
