"""Normalisation layers: y = xhat * weight + bias, so the gradients are sums of g * xhat and of g."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from fisherscope.features.gradients.call import Backward, Call, Gradients
from fisherscope.features.gradients.forms import DenseForm

_GROUP_NORM: Final = ("input", "num_groups", "weight", "bias", "eps", "cudnn_enabled")


def group_norm(call: Call) -> Backward | None:
    """``torch.group_norm(input, num_groups, weight, bias, eps)``."""
    bound = call.bind(*_GROUP_NORM)
    groups, eps = bound["num_groups"], _or(bound["eps"], 1e-5)
    if call.replaceable and _plain_floats(call, bound):
        return _expanded_group_norm(call, bound, groups, eps)
    return _affine(call, bound, lambda x: torch.group_norm(x, groups, None, None, eps), channel_axis=1)


def _plain_floats(call: Call, bound: dict[str, Any]) -> bool:
    tensors = [bound[name] for name in ("input", "weight", "bias") if bound[name] is not None]
    return not call.is_weight(bound["input"]) and {t.dtype for t in tensors} in ({torch.float32}, {torch.float64})


def _expanded_group_norm(call: Call, bound: dict[str, Any], groups: int, eps: float) -> Backward:
    """With every sample's channels side by side, torch's own backward kernel sums over no samples."""
    x, fold = bound["input"], call.fold
    (n, channels), positions = x.shape[:2], math.prod(x.shape[2:])
    trained = [name for name in ("weight", "bias") if call.is_weight(bound[name])]

    def repeated(name: str, value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        copies = value.repeat(n)
        return call.stand_in(copies) if name in trained else copies

    def run(*args: Any, **kwargs: Any) -> Tensor:
        given: dict[str, Any] = dict(zip(_GROUP_NORM, args, strict=False)) | kwargs
        scale, shift = (repeated(name, given.get(name)) for name in ("weight", "bias"))
        x = given["input"].contiguous()
        y, _, _ = torch.native_group_norm(x, scale, shift, 1, n * channels, positions, n * groups, eps)
        return y

    def backward(gradients: list[Tensor | None]) -> Gradients:
        for name, per_sample in zip(trained, gradients, strict=True):
            assert per_sample is not None
            yield bound[name], DenseForm(fold.sum_to(per_sample.reshape(n, channels), (channels,)))

    call.run = run
    call.nbytes = x.numel() * x.element_size()  # kept by autograd
    return backward


def layer_norm(call: Call) -> Backward | None:
    """``torch.layer_norm(input, normalized_shape, weight, bias, eps)``."""
    bound = call.bind("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable")
    shape, eps = list(bound["normalized_shape"]), _or(bound["eps"], 1e-5)
    return _affine(call, bound, lambda x: torch.layer_norm(x, shape, None, None, eps), last=len(shape))


def rms_norm(call: Call) -> Backward | None:
    """``torch.rms_norm(input, normalized_shape, weight, eps)``."""
    bound = {"bias": None, **call.bind("input", "normalized_shape", "weight", "eps")}
    shape, eps = list(bound["normalized_shape"]), bound["eps"]
    return _affine(call, bound, lambda x: torch.rms_norm(x, shape, None, eps), last=len(shape))


def instance_norm(call: Call) -> Backward | None:
    """``torch.instance_norm(input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps)``."""
    names = ("running_mean", "running_var", "use_input_stats", "momentum", "eps", "cudnn_enabled")
    bound = call.bind("input", "weight", "bias", *names)
    mean, var, own, momentum, eps, _ = (bound[name] for name in names)
    if own:
        # own statistics never read the running ones, but would update them a second time
        mean = var = None
    return _affine(
        call, bound, lambda x: torch.instance_norm(x, None, None, mean, var, own, momentum, eps, False), channel_axis=1
    )


def batch_norm(call: Call) -> Backward | None:
    """``torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)``, eval mode."""
    names = ("running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
    bound = call.bind("input", "weight", "bias", *names)
    mean, var, training, momentum, eps, _ = (bound[name] for name in names)
    if training:
        return None
    return _affine(
        call, bound, lambda x: torch.batch_norm(x, None, None, mean, var, False, momentum, eps, False), channel_axis=1
    )


def _affine(
    call: Call,
    bound: dict[str, Any],
    normalise: Callable[[Tensor], Tensor],
    *,
    channel_axis: int | None = None,
    last: int = 0,
) -> Backward | None:
    x, weight, bias = bound["input"], bound["weight"], bound["bias"]
    fold = call.fold
    batch_axes = 1 if channel_axis == 1 else x.dim() - last
    if call.is_weight(x) or fold.layout.axis >= batch_axes:
        return None
    heavy, light = call.is_weight(weight), call.is_weight(bias)
    kept = call.saved(x) if heavy else None

    def backward(gradients: list[Tensor | None]) -> Gradients:
        (g,) = gradients
        assert g is not None
        if light:
            yield bias, _summed(g, bias.shape)
        if kept is not None:
            yield weight, _summed(g * normalise(kept), weight.shape)

    def _summed(value: Tensor, shape: Sequence[int]) -> DenseForm:
        aligned = (*shape, *(1,) * (value.dim() - 2)) if channel_axis == 1 else tuple(shape)
        return DenseForm(fold.sum_to(value, aligned).reshape(fold.n_groups, *shape))

    return backward


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
