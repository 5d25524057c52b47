"""The rule for every op without a rule of its own: the vector-Jacobian product of that one op, group by group.

Where all data operands are (n, ...), the op is run on each group's slice under vmap. Otherwise, and where vmap has no
batching rule, the whole op is differentiated once a group with the other groups' output gradients set to zero, which
is exact whatever the op does with its operands.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fisherscope.features.gradients.call import Backward, Call, Gradients
from fisherscope.features.gradients.forms import DenseForm

Closed = Callable[[Sequence[Tensor], Sequence[Any]], list[Tensor]]


def generic(call: Call) -> Backward:
    """Any op."""
    flat, spec = pytree.tree_flatten((list(call.args), call.kwargs))
    slots = [i for i, value in enumerate(flat) if call.is_weight(value)]
    weights = [flat[i] for i in slots]
    others = [call.saved(value) for value in flat]
    run = _closed(call, spec, slots)
    fold = call.fold
    # an operand made of parameters that has a row for each sample would have to be cut as well
    rows_of_weights = any(w.dim() and len(w) == fold.n for w in weights)
    sliceable = call.sliceable and fold.layout.plain and not rows_of_weights

    def backward(gradients: list[Tensor | None]) -> Gradients:
        found = None
        if sliceable:
            found = _sliced(run, weights, others, gradients, fold.n_groups, fold.n)
        if found is None:
            found = _masked(run, weights, others, [None if g is None else fold.blocks(g) for g in gradients])
        for weight, gradient in zip(weights, found, strict=True):
            yield weight, DenseForm(gradient)

    return backward


def _closed(call: Call, spec: pytree.TreeSpec, slots: list[int]) -> Closed:
    func, in_place = call.func, call.in_place

    def run(weights: Sequence[Tensor], others: Sequence[Any]) -> list[Tensor]:
        values = list(others)
        for slot, weight in zip(slots, weights, strict=True):
            values[slot] = weight
        if in_place:
            values[0] = values[0].clone()
        args, kwargs = pytree.tree_unflatten(values, spec)
        result = func(*args, **kwargs)
        return pytree.tree_leaves(args[0] if in_place else result)

    return run


def _sliced(
    run: Closed,
    weights: Sequence[Tensor],
    others: Sequence[Any],
    gradients: Sequence[Tensor | None],
    n_groups: int,
    n: int,
) -> list[Tensor] | None:
    def folded(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != n:
            return value
        return value.reshape(n_groups, -1, *value.shape[1:])

    data = [folded(v) for v in others]
    moving = [i for i, (new, old) in enumerate(zip(data, others, strict=True)) if new is not old]
    arrived = [folded(g) for g in gradients if g is not None]
    wanted = [i for i, g in enumerate(gradients) if g is not None]

    def one(*values: Tensor) -> tuple[Tensor, ...]:
        mine = list(data)
        for slot, value in zip(moving, values[: len(moving)], strict=True):
            mine[slot] = value

        def outputs(*parameters: Tensor) -> tuple[Tensor, ...]:
            results = run(parameters, mine)
            return tuple(results[i] for i in wanted)

        pull = torch.func.vjp(outputs, *weights)[1]
        return tuple(pull(tuple(values[len(moving) :])))

    weights = [w.detach() for w in weights]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")  # vmap loops by itself, exactly
            return list(torch.func.vmap(one)(*(data[i] for i in moving), *arrived))
    except Exception:  # whatever this op raises where it cannot be cut
        return None


def _masked(
    run: Closed, weights: Sequence[Tensor], others: Sequence[Any], blocks: Sequence[Tensor | None]
) -> list[Tensor]:
    own = [w.detach().requires_grad_() for w in weights]
    with torch.enable_grad():
        results = run(own, others)
        pairs = [(r, b) for r, b in zip(results, blocks, strict=True) if b is not None and r.requires_grad]
        groups = next(len(b) for b in blocks if b is not None)
        if not pairs:  # the op reads no values of the parameters, as x.to(weight) does
            return [w.new_zeros((groups, *w.shape)) for w in weights]
        rows = [
            torch.autograd.grad(
                [r for r, _ in pairs], own, [b[m] for _, b in pairs], allow_unused=True, retain_graph=True
            )
            for m in range(groups)
        ]
    columns = zip(*rows, strict=True)
    return [
        torch.stack([torch.zeros_like(w) if g is None else g for g in column])
        for w, column in zip(own, columns, strict=True)
    ]
