"""Linear maps and matrix products: the gradient of a matrix is a sum of outer products over positions."""

from __future__ import annotations

import torch
from torch import Tensor

from fisherscope.features.gradients.call import Backward, Call, Gradients
from fisherscope.features.gradients.forms import DenseForm, OuterForm
from fisherscope.features.gradients.layout import Fold, Layout


def linear(call: Call) -> Backward | None:
    """``F.linear(input, weight, bias)``."""
    bound = call.bind("input", "weight", "bias")
    x, weight, bias = bound["input"], bound["weight"], bound["bias"]
    fold = call.fold
    if call.is_weight(x) or weight.dim() != 2 or weight.is_complex() or fold.layout.axis >= x.dim() - 1:
        return None
    heavy, light = call.is_weight(weight), call.is_weight(bias)
    kept = call.saved(x) if heavy else None

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        rows = fold.positions(g, 1)
        if heavy:
            yield weight, OuterForm(rows, fold.positions(_like(kept, g), 1), weight.shape)
        if light:
            yield bias, DenseForm(rows.sum(1))

    return backward


def matmul(call: Call) -> Backward | None:
    """``x @ w`` and ``w @ x`` with a matrix w."""
    first, second = call.args
    return _product(call, first, second)


def reflected_matmul(call: Call) -> Backward | None:
    """``Tensor.__rmatmul__(second, first)``."""
    second, first = call.args
    return _product(call, first, second)


def addmm(call: Call) -> Backward | None:
    """``torch.addmm(bias, x, w)``, a vector bias: the linear map of GPT-2."""
    bias, x, weight = call.args
    fold = call.fold
    if call.kwargs or call.in_place or call.is_weight(x) or not call.is_weight(weight) or fold.layout.axis != 0:
        return None
    if (call.is_weight(bias) and bias.dim() != 1) or weight.is_complex():
        return None
    kept, light = call.saved(x), call.is_weight(bias)

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        columns = fold.positions(g, 1)
        yield weight, OuterForm(fold.positions(kept, 1), columns, weight.shape, inputs_first=True)
        if light:
            yield bias, DenseForm(columns.sum(1))

    return backward


def einsum(call: Call) -> Backward | None:
    """``torch.einsum("...,...->...", a, b)`` with one weight-like operand and explicit letters."""
    if len(call.args) != 3 or not isinstance(call.args[0], str) or not call.fold.layout.plain:
        return None
    equation, *pair = call.args
    equation = equation.replace(" ", "")
    if call.is_weight(pair[0]) == call.is_weight(pair[1]) or "." in equation or "->" not in equation:
        return None
    inputs, output = equation.split("->")
    letters = inputs.split(",")
    if call.is_weight(pair[0]):
        pair, letters = pair[::-1], letters[::-1]
    (x, weight), (x_letters, w_letters) = pair, letters
    batch = output[:1]
    repeats = any(len(set(part)) < len(part) for part in (x_letters, w_letters, output))
    if (
        repeats
        or any(t.is_complex() or 1 in t.shape for t in pair)
        or not batch
        or batch not in x_letters
        or batch in w_letters
        or set(w_letters) - set(x_letters + output)
    ):
        return None
    kept, fold = call.saved(x), call.fold
    back = f"{output},{x_letters}->{batch}{w_letters}"

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        per_sample = torch.einsum(back, g, kept)
        yield weight, DenseForm(per_sample.reshape(fold.n_groups, -1, *weight.shape).sum(1))

    return backward


def _product(call: Call, first: Tensor, second: Tensor) -> Backward | None:
    if call.is_weight(first) == call.is_weight(second) or call.kwargs:
        return None
    left = call.is_weight(first)
    weight, x = (first, second) if left else (second, first)
    fold = call.fold
    if weight.dim() != 2 or x.dim() < 2 or weight.is_complex() or x.is_complex():
        return None
    axis = fold.layout.axis
    if left:  # w @ x = (x^T @ w^T)^T: the positions of x are its columns
        moved = {x.dim() - 1: x.dim() - 2}.get(axis, axis)
        if axis == x.dim() - 2:
            return None
        fold = Fold(fold.n, fold.group_size, Layout(moved, fold.layout.outer, fold.layout.inner))
    elif axis == x.dim() - 1:
        return None
    kept = call.saved(x)

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        if left:
            yield weight, OuterForm(fold.positions(g.mT, 1), fold.positions(kept.mT, 1), weight.shape)
        else:
            yield weight, OuterForm(fold.positions(kept, 1), fold.positions(g, 1), weight.shape, inputs_first=True)

    return backward


def _like(value: Tensor | None, g: Tensor) -> Tensor:
    assert value is not None
    return value if value.dtype == g.dtype else value.to(g.dtype)
