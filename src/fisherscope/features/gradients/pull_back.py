"""The way of per-group gradients from tensors computed from parameters back to the parameters.

A scalar's gradient is the same for all groups but for a factor; a tensor that depends on its parameter entry by entry
has a diagonal Jacobian; all others go through autograd's graph in one batched backward pass, which ends where such
entrywise tensors begin.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fisherscope.features.gradients.component import Component, UnsupportedError
from fisherscope.features.gradients.entrywise import Origin, Relation


def pull_back(components: Sequence[Component], n_groups: int) -> dict[int, Tensor]:
    """Return per-group gradients (M, *shape) by parameter id, from those of the weight-like tensors used with data."""
    totals: dict[int, Tensor] = {}
    scalars: list[tuple[Tensor, Tensor, Component]] = []
    entrywise: list[tuple[Tensor, Origin, Tensor]] = []
    others: list[tuple[Tensor, Tensor]] = []
    inputs: list[tuple[Tensor, Origin]] = []
    for component in components:
        first, n_others = True, len(others)
        for tensor, version, gradient in component.cotangents.values():
            if tensor._version != version:
                raise UnsupportedError("a tensor computed from parameters is changed in place after it met data")
            origin = component.origins.get(id(tensor))
            if origin is not None:
                entrywise.append((tensor, origin, gradient))
            elif tensor.numel() == 1 and first:
                scalars.append((tensor, gradient, component))
                first = False
            else:
                others.append((tensor, gradient))
        if len(others) > n_others:
            inputs += component.sources()
    if others:
        entrywise += _pull_back_tensors(others, inputs, n_groups)
    _pull_back_entrywise(entrywise, n_groups, totals)
    _pull_back_scalars(scalars, n_groups, totals)
    return totals


def _add(totals: dict[int, Tensor], parameter: Tensor, gradient: Tensor) -> None:
    old = totals.get(id(parameter))
    totals[id(parameter)] = gradient if old is None else old + gradient


def _pull_back_scalars(
    scalars: Sequence[tuple[Tensor, Tensor, Component]], n_groups: int, totals: dict[int, Tensor]
) -> None:
    # A scalar (log|det W|, say) has one gradient; each group has a multiple of it. The components are disjoint,
    # so one ordinary backward pass serves all of them.
    if not scalars:
        return
    parameters = [p for _, _, c in scalars for p in c.parameters.values()]
    multiples = [g for _, g, c in scalars for _ in c.parameters]
    with torch.enable_grad():
        outputs = [tensor for tensor, _, _ in scalars]
        gradients = torch.autograd.grad(
            outputs, parameters, [torch.ones_like(t) for t in outputs], allow_unused=True, retain_graph=True
        )
    for parameter, multiple, gradient in zip(parameters, multiples, gradients, strict=True):
        if gradient is not None:
            factor = multiple.reshape(n_groups, *(1,) * parameter.dim()).to(gradient.dtype)
            old = totals.get(id(parameter))
            totals[id(parameter)] = factor * gradient if old is None else torch.addcmul(old, factor, gradient)


def _pull_back_tensors(
    others: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[tuple[Tensor, Origin]], n_groups: int
) -> list[tuple[Tensor, Origin, Tensor]]:
    """Return the entrywise tensors among the inputs, their origins and their per-group gradients."""
    outputs = [tensor for tensor, _ in others]
    cotangents = [g.reshape(n_groups, *t.shape).to(t.dtype) for t, g in others]
    gradients = _batched_vjp(outputs, [tensor for tensor, _ in inputs], cotangents)
    return [(t, origin, g) for (t, origin), g in zip(inputs, gradients, strict=True) if g is not None]


def _pull_back_entrywise(
    entrywise: Sequence[tuple[Tensor, Origin, Tensor]], n_groups: int, totals: dict[int, Tensor]
) -> None:
    jacobians = _jacobians(
        [(t, origin.parameter) for t, origin, _ in entrywise if origin.relation is not Relation.SAME]
    )
    for tensor, origin, gradient in entrywise:
        shaped = gradient.reshape(n_groups, *origin.parameter.shape)
        if origin.relation is Relation.SAME:
            _add(totals, origin.parameter, shaped)
        elif id(tensor) in jacobians:
            _add(totals, origin.parameter, shaped * jacobians[id(tensor)])


def _jacobians(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
    """Return the diagonal of d tensor / d parameter by tensor id, for entrywise (tensor, parameter) pairs."""
    found: dict[int, Tensor] = {}
    waiting = list({id(tensor): (tensor, parameter) for tensor, parameter in pairs}.values())
    while waiting:  # tensors of different parameters have no op in common: one backward pass serves one of each
        batch = list({id(parameter): (tensor, parameter) for tensor, parameter in waiting}.values())
        tensors, parameters = zip(*batch, strict=True)
        with torch.enable_grad():
            gradients = torch.autograd.grad(
                tensors, parameters, [torch.ones_like(t) for t in tensors], allow_unused=True, retain_graph=True
            )
        served = {id(t) for t in tensors}
        found |= {id(t): g for t, g in zip(tensors, gradients, strict=True) if g is not None}
        waiting = [pair for pair in waiting if id(pair[0]) not in served]
    return found


def _batched_vjp(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    with torch.enable_grad():
        try:
            return list(
                torch.autograd.grad(
                    outputs, inputs, cotangents, allow_unused=True, retain_graph=True, is_grads_batched=True
                )
            )
        except RuntimeError:
            # some op in the parameter graph has no batched backward: one group at a time
            rows = [
                torch.autograd.grad(outputs, inputs, [c[m] for c in cotangents], allow_unused=True, retain_graph=True)
                for m in range(len(cotangents[0]))
            ]
    return [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
