"""Ops that act entry by entry with broadcasting: arithmetic with bare parameters."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fisherscope.features.gradients.call import Backward, Call, Gradients
from fisherscope.features.gradients.forms import DenseForm

_SUMS: Final = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
_PRODUCTS: Final = frozenset({"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"})
_FAST: Final = _SUMS | _PRODUCTS


def elementwise(call: Call) -> Backward | None:
    """Any arithmetic op (``entrywise.ARITHMETIC``) with any of its operands weight-like."""
    if call.name in _FAST:
        fast = _binary(call)
        if fast is not None:
            return fast
    return _any(call)


def _binary(call: Call) -> Backward | None:
    first, second = call.args if len(call.args) == 2 else (None, None)
    if call.kwargs or call.is_weight(first) == call.is_weight(second):
        return None
    weight, x = (first, second) if call.is_weight(first) else (second, first)
    if not isinstance(weight, Tensor) or not isinstance(x, Tensor) or weight.is_complex() or x.is_complex():
        return None
    fold, shape = call.fold, weight.shape
    kept = call.saved(x) if call.name in _PRODUCTS else None

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        entry = g if kept is None else g * kept
        yield weight, DenseForm(fold.sum_to(entry, shape).to(weight.dtype))

    return backward


def _any(call: Call) -> Backward:
    # Each weight-like operand is expanded to the shape of the output: one ordinary vjp of this op alone then
    # yields the gradient entry by entry, ready to be summed sample by sample.
    func, in_place, fold = call.func, call.in_place, call.fold
    flat, spec = pytree.tree_flatten((call.args, call.kwargs))
    slots = [i for i, value in enumerate(flat) if call.is_weight(value)]
    weights = [flat[i] for i in slots]
    kept = [call.saved(value) for value in flat]

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        expanded = [w.detach().expand(g.shape).requires_grad_() for w in weights]
        values: list[Any] = list(kept)
        for slot, value in zip(slots, expanded, strict=True):
            values[slot] = value
        with torch.enable_grad():
            args, kwargs = pytree.tree_unflatten(values, spec)
            result = func(*args, **kwargs)
            entries = torch.autograd.grad(result if not in_place else args[0], expanded, g, allow_unused=True)
        for weight, entry in zip(weights, entries, strict=True):
            if entry is not None:
                yield weight, DenseForm(fold.sum_to(entry, weight.shape))

    return backward
