"""The reference: one forward and backward pass a sample, summed in the group. Slow, plain, and always right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from fisherscope.core.errors import ModelError
from fisherscope.features.gradients.batch import Batch
from fisherscope.features.gradients.forms import DenseForm
from fisherscope.features.gradients.logprob import BoundLogProb, check_log_prob
from fisherscope.features.gradients.reductions import Reduction


def loop_pass(
    log_prob: BoundLogProb,
    batch: Batch,
    parameters: Mapping[str, Parameter],
    reductions: Sequence[Reduction],
    seed: int,
) -> Tensor:
    """Feed the reductions group by group; return log p (n,), detached."""
    values: list[Tensor] = []
    for group in range(batch.n_groups):
        members, gradients = group_gradient(log_prob, batch.groups(group, group + 1), parameters, seed)
        values += members
        for name, gradient in gradients.items():
            for reduction in reductions:
                reduction.update(name, DenseForm(gradient[None]))
    return torch.cat(values)


def group_gradient(
    log_prob: BoundLogProb, group: Batch, parameters: Mapping[str, Parameter], seed: int
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return log p of each member, each (1,), and the gradient of their sum with respect to each parameter."""
    values: list[Tensor] = []
    total: dict[str, Tensor] = {}
    for i in range(len(group)):
        one = group.rows([i])
        value = check_log_prob(log_prob(one.tree(), seed, one.keys), 1, one.first)
        for name, gradient in zip(parameters, sample_gradients(value[0], list(parameters.values())), strict=True):
            total[name] = total[name] + gradient if name in total else gradient
        values.append(value.detach())
    return values, total


def sample_gradients(value: Tensor, parameters: Sequence[Parameter]) -> list[Tensor]:
    """Return d value / d parameter for each parameter, zeros for those that do not touch the value.

    The parameters' ``.grad`` is what it was before.

    Raises:
        ModelError: the value depends on no trainable tensor differentiably.
    """
    if not value.requires_grad:
        raise ModelError(
            "log p is not differentiable: it depends on no trainable parameter; check for torch.no_grad, .detach() "
            "or .item() in log_prob"
        )
    try:
        # the graph is kept for a second try, and goes when value goes
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            value, parameters, allow_unused=True, retain_graph=True
        )
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower():
            raise
        gradients = _accumulated(value, parameters)
    return [_dense(g, p) for g, p in zip(gradients, parameters, strict=True)]


def _dense(gradient: Tensor | None, parameter: Parameter) -> Tensor:
    if gradient is None:
        return torch.zeros_like(parameter)
    # those of nn.Embedding(sparse=True) are sparse
    return gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()


def _accumulated(value: Tensor, parameters: Sequence[Parameter]) -> list[Tensor | None]:
    # reentrant checkpointing refuses autograd.grad: it only knows how to accumulate into .grad
    before = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        torch.autograd.backward(value)
        return [p.grad for p in parameters]
    finally:
        for p, grad in zip(parameters, before, strict=True):
            p.grad = grad
