"""Gradient features of any torch model: the public functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.features.gradients import guards
from fisherscope.features.gradients.batch import make_batch
from fisherscope.features.gradients.engine import batched_pass, looped_pass
from fisherscope.features.gradients.job import Job
from fisherscope.features.gradients.logprob import LogProb, bind_log_prob
from fisherscope.features.gradients.reductions import Reduction, SquaredNorms
from fisherscope.features.gradients.report import RulesReport, make_report
from fisherscope.features.gradients.sketch import Projection, Sketch


@dataclass(frozen=True)
class PassResult:
    """What one pass over a batch yields.

    Attributes:
        log_p: log p of each sample in nats, (n,).
        results: the result of each reduction, in the order they were given.
    """

    log_p: Tensor
    results: tuple[Any, ...]


def gradient_pass(
    module: nn.Module,
    x: Any,
    reductions: Sequence[Reduction],
    *,
    log_prob: LogProb | None = None,
    group_size: int = 1,
    seed: int = 0,
    keys: KeyArray | None = None,
    method: str = "batched",
    max_memory: int | None = None,
) -> PassResult:
    """Run a model forward and backward once and hand every parameter's per-group gradients to some reductions.

    Args:
        module: the model. It is left as it was: no ``.grad`` is written, no mode or buffer changed. Autocast around the
            call does not count, only what the model itself switches on.
        x: samples, any pytree of tensors with the batch first.
        reductions: what to keep of the gradients; fresh objects.
        log_prob: callable ``(module, x) -> (n,)``, None for ``module.log_prob``; see :func:`bind_log_prob`.
        group_size: B; groups are consecutive samples, and the gradient of a group is that of its summed log p.
        seed: seed of the model's noise.
        keys: sample keys (n,), uint64; None: computed from x.
        method: "batched", or "loop" for the reference.
        max_memory: budget in bytes for what a pass keeps; the batch is cut into micro-batches of whole groups.

    Returns:
        log p and the results of the reductions.

    Raises:
        DataError: x is empty, ragged or no whole number of groups.
        ModelError: log p is not one finite differentiable number a sample, or samples interact.
        SettingError: an argument out of range.
    """
    if method not in ("batched", "loop"):
        raise SettingError(f"method is {method!r}; expected 'batched' or 'loop'")
    batch = make_batch(x, keys, group_size)
    bound = bind_log_prob(module, log_prob)
    parameters = guards.trainable_parameters(module)
    job = Job(module, log_prob, bound, guards.check_modes(module), parameters, reductions, seed)
    with torch.inference_mode(False), torch.enable_grad(), guards.without_autocast(module):
        if method == "loop":
            with guards.unchanged_state(module):
                log_p = looped_pass(job, batch)
        else:
            log_p = batched_pass(job, batch, max_memory)
    return PassResult(log_p, tuple(r.result(list(parameters)) for r in reductions))


def gradient_norms(
    module: nn.Module,
    x: Any,
    *,
    log_prob: LogProb | None = None,
    group_size: int = 1,
    seed: int = 0,
    keys: KeyArray | None = None,
    method: str = "batched",
    max_memory: int | None = None,
) -> dict[str, Tensor]:
    """Return ``f_l``, the squared L2 norm of the gradient of each group's summed log p, parameter by parameter.

    Exact: what a backward pass of each sample by itself gives, to float tolerance. Frozen parameters
    (``requires_grad=False``) are left out, tied ones appear once under their first name, and those that do not
    touch log p are zero.

    Args and errors: as :func:`gradient_pass`.

    Returns:
        ``named_parameters`` name -> (n_groups,); float32 for half-precision parameters, else the parameter's dtype.

    Raises:
        DataError: a norm is NaN or infinite; the message names parameter and samples.
    """
    done = gradient_pass(
        module,
        x,
        [SquaredNorms()],
        log_prob=log_prob,
        group_size=group_size,
        seed=seed,
        keys=keys,
        method=method,
        max_memory=max_memory,
    )
    norms: dict[str, Tensor] = done.results[0]
    _require_finite(norms, "squared gradient norm", group_size)
    return norms


@overload
def gradient_sketch(
    module: nn.Module,
    x: Any,
    *,
    log_prob: LogProb | None = None,
    size: int = 512,
    group_size: int = 1,
    seed: int = 0,
    projection_seed: int = 0,
    keys: KeyArray | None = None,
    projections: Mapping[str, Projection] | None = None,
    per_layer: Literal[False] = False,
    max_memory: int | None = None,
) -> Tensor: ...


@overload
def gradient_sketch(
    module: nn.Module,
    x: Any,
    *,
    log_prob: LogProb | None = None,
    size: int = 512,
    group_size: int = 1,
    seed: int = 0,
    projection_seed: int = 0,
    keys: KeyArray | None = None,
    projections: Mapping[str, Projection] | None = None,
    per_layer: Literal[True],
    max_memory: int | None = None,
) -> dict[str, Tensor]: ...


def gradient_sketch(
    module: nn.Module,
    x: Any,
    *,
    log_prob: LogProb | None = None,
    size: int = 512,
    group_size: int = 1,
    seed: int = 0,
    projection_seed: int = 0,
    keys: KeyArray | None = None,
    projections: Mapping[str, Projection] | None = None,
    per_layer: bool = False,
    max_memory: int | None = None,
) -> Tensor | dict[str, Tensor]:
    """Return a factored random sketch of each group's whole gradient, without forming it.

    Linear: the sketch of a group is the sum of its samples' sketches. Unbiased for Euclidean inner products of
    gradients when the projections are random. The same in every process for the same seeds.

    Args:
        module: see :func:`gradient_pass`, like ``x``, ``log_prob``, ``group_size``, ``keys``, ``max_memory``.
        x: samples.
        log_prob: callable ``(module, x) -> (n,)``.
        size: K, length of the sketch, 8 or more.
        group_size: B.
        seed: seed of the MODEL's noise.
        projection_seed: seed of the PROJECTIONS.
        keys: sample keys.
        projections: parameter name -> projection to use instead of the random one (a whitened one, say).
        per_layer: return each parameter's own sketch instead of their sum.
        max_memory: budget in bytes.

    Returns:
        (n_groups, size), or with ``per_layer`` parameter name -> (n_groups, size).

    Raises:
        DataError: a sketch is NaN or infinite; the message names the samples and, with ``per_layer``, the parameter.
    """
    reduction = Sketch(size, projection_seed=projection_seed, projections=projections, per_layer=per_layer)
    done = gradient_pass(
        module,
        x,
        [reduction],
        log_prob=log_prob,
        group_size=group_size,
        seed=seed,
        keys=keys,
        max_memory=max_memory,
    )
    sketch: Tensor | dict[str, Tensor] = done.results[0]
    _require_finite(sketch if isinstance(sketch, dict) else {"": sketch}, "gradient sketch", group_size)
    return sketch


def _require_finite(results: Mapping[str, Tensor], kind: str, group_size: int) -> None:
    """Check what a pass returns, (n_groups, ...) by parameter or for all together: few numbers beside the gradients."""
    values = [value.flatten() for value in results.values()]
    if not values or bool(torch.cat([v.to(values[0].device) for v in values]).isfinite().all()):  # one wait for it
        return
    name, value = next((name, value) for name, value in results.items() if not value.isfinite().all())
    group = int((~value.isfinite().flatten(1).all(1) if value.dim() > 1 else ~value.isfinite()).nonzero()[0])
    first = group * group_size
    samples = f"sample {first}" if group_size == 1 else f"samples {first} to {first + group_size - 1}"
    raise DataError(
        f"the {kind} {f'of {name!r} ' if name else ''}for {samples} is NaN or infinite although log p is finite; look "
        "at that sample, at roots and norms that log_prob takes of 0, and at the range of the model's dtype"
    )


def rules_report(
    module: nn.Module, x: Any, *, log_prob: LogProb | None = None, seed: int = 0, keys: KeyArray | None = None
) -> RulesReport:
    """Say which rule serves each parameter and what it costs; print the result to read it.

    Args:
        module: see :func:`gradient_pass`, like the rest.
        x: samples, at least two.
        log_prob: callable ``(module, x) -> (n,)``.
        seed: seed of the model's noise.
        keys: sample keys.
    """
    batch = make_batch(x, keys, 1)
    bound = bind_log_prob(module, log_prob)
    parameters = guards.trainable_parameters(module)
    job = Job(module, log_prob, bound, guards.check_modes(module), parameters, [], seed)
    with torch.inference_mode(False), torch.enable_grad():
        return make_report(job, batch)
