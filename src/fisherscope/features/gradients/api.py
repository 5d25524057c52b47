"""Gradient features of any torch model: the public functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.features.gradients import guards
from fisherscope.features.gradients.batch import make_batch
from fisherscope.features.gradients.engine import batched_pass
from fisherscope.features.gradients.logprob import LogProb, bind_log_prob
from fisherscope.features.gradients.loop import loop_pass
from fisherscope.features.gradients.reductions import Reduction, SquaredNorms

Method = Literal["batched", "loop"]


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
    method: Method = "batched",
    max_memory: int | None = None,
) -> PassResult:
    """Run a model forward and backward once and hand every parameter's per-group gradients to some reductions.

    Args:
        module: the model. It is left as it was: no ``.grad`` is written, no mode or buffer changed.
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
    guards.check_modes(module)
    with torch.inference_mode(False), torch.enable_grad():
        if method == "loop":
            log_p = loop_pass(bound, batch, parameters, reductions, seed)
        else:
            log_p = batched_pass(module, log_prob, bound, batch, parameters, reductions, seed, max_memory)
    return PassResult(log_p, tuple(r.result(list(parameters)) for r in reductions))


def gradient_norms(
    module: nn.Module,
    x: Any,
    *,
    log_prob: LogProb | None = None,
    group_size: int = 1,
    seed: int = 0,
    keys: KeyArray | None = None,
    method: Method = "batched",
    max_memory: int | None = None,
) -> dict[str, Tensor]:
    """Return ``f_l``, the squared L2 norm of the gradient of each group's summed log p, parameter by parameter.

    Exact: what a backward pass of each sample by itself gives, to float tolerance (METHOD.md). Frozen parameters
    (``requires_grad=False``) are left out, tied ones appear once under their first name, and those that do not
    touch log p are zero.

    Args and errors: as :func:`gradient_pass`.

    Returns:
        ``named_parameters`` name -> (n_groups,); float32 for half-precision parameters, else the parameter's dtype.
    """
    return gradient_pass(
        module,
        x,
        [SquaredNorms()],
        log_prob=log_prob,
        group_size=group_size,
        seed=seed,
        keys=keys,
        method=method,
        max_memory=max_memory,
    ).results[0]
