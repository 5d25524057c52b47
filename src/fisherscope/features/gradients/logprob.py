"""From whatever the user has to one callable: (x, seed, keys) -> log p of every sample.

A user's log-prob callable may or may not care for the seed and the keys; it receives those that its signature
accepts. The result is checked here once for all: one finite number a sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fisherscope.core.errors import DataError, ModelError, NonFiniteLogProbError
from fisherscope.core.keys import KeyArray, sample_keys

LogProb = Callable[..., Tensor]
BoundLogProb = Callable[[Any, int, KeyArray], Tensor]


def bind_log_prob(module: nn.Module, log_prob: LogProb | None = None) -> BoundLogProb:
    """Return ``(x, seed, keys) -> log p`` of a module.

    Args:
        module: the model.
        log_prob: callable ``(module, x) -> (n,)``, which receives ``seed=`` and ``keys=`` too if its signature
            accepts them. None: the method ``module.log_prob(x)``, likewise.

    Returns:
        A callable of x (pytree, batch first), seed and keys (n,) that returns log p in nats, shape (n,).

    Raises:
        ModelError: there is neither a callable nor a method ``log_prob``.
    """
    if log_prob is None:
        method = getattr(module, "log_prob", None)
        if not callable(method):
            raise ModelError(
                f"{type(module).__name__} has no method log_prob(x); pass log_prob=, a callable (module, x) -> (n,)"
            )
        lead: tuple[Any, ...] = ()
        target: LogProb = method
    else:
        lead, target = (module,), log_prob
    takes_seed, takes_keys = _accepted(target, "seed", "keys")

    def bound(x: Any, seed: int, keys: KeyArray) -> Tensor:
        extra: dict[str, Any] = {}
        if takes_seed:
            extra["seed"] = seed
        if takes_keys:
            extra["keys"] = keys
        return target(*lead, x, **extra)

    return bound


def pytree_keys(x: Any) -> KeyArray:
    """Return the key (n,) of every sample of x, a pytree of tensors with the batch first.

    A uint8 tensor and its float copy have the same keys.

    Raises:
        DataError: x holds something other than tensors, or tensors of different length.
    """
    leaves = tensor_leaves(x)
    return sample_keys([_as_numpy(leaf) for leaf in leaves])


def tensor_leaves(x: Any) -> list[Tensor]:
    """Return the tensors of a pytree, checked to share a non-empty first axis."""
    leaves = pytree.tree_leaves(x)
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            given = "a 0-d tensor" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise DataError(f"x holds {given}; expected tensors whose first axis is the batch: convert it first")
        if leaf.layout is not torch.strided:
            raise DataError(f"x holds a tensor of layout {leaf.layout}; expected a dense one: give x.to_dense()")
    lengths = sorted({len(leaf) for leaf in leaves})
    if len(lengths) > 1:
        raise DataError(f"the tensors of x have lengths {lengths}; expected one batch size on every first axis")
    if lengths in ([], [0]):
        raise DataError("the batch is empty; expected at least one sample")
    return leaves


def check_log_prob(value: object, n: int, first: int = 0) -> Tensor:
    """Return ``value`` if it is log p of n samples, the first of which has index ``first``.

    Raises:
        ModelError: not a floating tensor (n,), or NaN or inf, naming the samples.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != (n,):
        given = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ModelError(
            f"log_prob returned {given} for {n} samples; expected a floating tensor ({n},): one number a sample, "
            "no mean over the batch"
        )
    plain = value.detach()
    finite = torch.isfinite(plain)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise NonFiniteLogProbError({first + i: float(plain[i]) for i in bad})
    return value


def _accepted(function: LogProb, *names: str) -> list[bool]:
    """Return which keyword arguments a callable takes."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return [False] * len(names)
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    own = {name for name, p in parameters.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY}
    return [name in own or (any_name and name not in parameters) for name in names]


def _as_numpy(leaf: Tensor) -> np.ndarray[Any, Any]:
    plain = leaf.detach().cpu()
    # numpy knows no bfloat16; float32 holds each of its values
    return (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
