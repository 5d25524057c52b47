"""Convolutions and transposed convolutions in one to three dimensions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fisherscope.features.gradients.call import Backward, Call, Gradients
from fisherscope.features.gradients.conv_form import ConvForm
from fisherscope.features.gradients.forms import DenseForm, GradientForm, OuterForm, summed_instances
from fisherscope.features.gradients.geometry import Geometry
from fisherscope.features.gradients.layout import Fold


def convolution(call: Call) -> Backward | None:
    """``F.conv{1,2,3}d(input, weight, bias, stride, padding, dilation, groups)``."""
    bound = call.bind("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    padding = bound["padding"]
    if padding == "same" and any(d * (k - 1) % 2 for d, k in zip(*_dilated(bound), strict=True)):
        return None
    return _served(call, bound, transposed=False)


def transposed_convolution(call: Call) -> Backward | None:
    """``F.conv_transpose{1,2,3}d(input, weight, bias, stride, padding, output_padding, groups, dilation)``."""
    bound = call.bind("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    return _served(call, bound, transposed=True)


def _served(call: Call, bound: dict[str, Any], *, transposed: bool) -> Backward | None:
    x, weight, bias = bound["input"], bound["weight"], bound["bias"]
    if call.is_weight(x) or call.fold.layout.axis != 0 or x.dim() != weight.dim() or weight.is_complex():
        return None
    geometry = _geometry(bound)
    heavy, light = call.is_weight(weight), call.is_weight(bias)
    kept = call.saved(x) if heavy else None
    fold = call.fold

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        g = _instances_first(g, fold)
        if light:
            yield bias, DenseForm(summed_instances(g.sum(tuple(range(2, g.dim()))), fold.n_groups))
        if kept is not None:
            a = _instances_first(kept, fold).to(g.dtype)
            yield weight, _weight_form(a, g, geometry, fold.n_groups, transposed)

    return backward


def _weight_form(a: Tensor, g: Tensor, geometry: Geometry, n_groups: int, transposed: bool) -> GradientForm:
    if transposed:
        a, g = g, a
    if not geometry.pointwise:
        return ConvForm(a, g, geometry, n_groups, inputs_first=transposed)
    rows, columns = (v.flatten(2).mT for v in (g, a))
    return OuterForm(rows, columns, geometry.weight, n_groups=n_groups, inputs_first=transposed)


def _instances_first(value: Tensor, fold: Fold) -> Tensor:
    """(outer * n * inner, C, ...) -> (n * outer * inner, C, ...)."""
    if fold.layout.plain:
        return value
    return fold.layout.batch_first(value, fold.n).reshape(value.shape)


def _geometry(bound: dict[str, Any]) -> Geometry:
    numbers = [bound["stride"], bound["padding"], bound["dilation"]]
    if list in map(type, numbers):  # which cannot be looked up
        numbers = [tuple(number) if isinstance(number, list) else number for number in numbers]
    return _cached_geometry(bound["weight"].shape, *numbers, bound["groups"])


@lru_cache(maxsize=4096)
def _cached_geometry(weight: torch.Size, stride: Any, padding: Any, dilation: Any, groups: int | None) -> Geometry:
    spatial = len(weight) - 2
    dilation = _per_axis(dilation, spatial, 1)
    match padding:
        case "same":
            padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, weight[2:], strict=True))
        case "valid":
            padding = (0,) * spatial
        case given:
            padding = _per_axis(given, spatial, 0)
    return Geometry(weight, _per_axis(stride, spatial, 1), padding, dilation, 1 if groups is None else groups)


def _dilated(bound: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    kernel = tuple(bound["weight"].shape[2:])
    return _per_axis(bound["dilation"], len(kernel), 1), kernel


def _per_axis(value: Any, spatial: int, default: int) -> tuple[int, ...]:
    if value is None:
        return (default,) * spatial
    if isinstance(value, int):
        return (value,) * spatial
    given = tuple(value)
    return given * spatial if len(given) == 1 else given
