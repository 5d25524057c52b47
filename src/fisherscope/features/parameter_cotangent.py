"""From d score / d block to v = d score / d g, g = d log p / d theta: the direction in which an explanation looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fisherscope.core.errors import SettingError
from fisherscope.features.gradients.forms import DenseForm
from fisherscope.features.metrics.feature import GradientFeature

Named = dict[str, Tensor]


class ParameterCotangent:
    """v of every member of a group, by parameter.

    Args:
        module: the model.
        cotangent: d score / d block by block, each with the block's shape (N, ...) or (N, B, ...).
        features: what fills the gradient blocks among them.
        group_size: B.

    Attributes:
        features: those whose blocks the score reads.

    Raises:
        SettingError: a block has no gradient.
    """

    def __init__(
        self,
        module: nn.Module,
        cotangent: Mapping[str, NDArray[Any]],
        features: Sequence[GradientFeature],
        group_size: int,
    ) -> None:
        known = {f.block: f for f in features}
        if unknown := sorted(set(cotangent) - set(known) - {"log_p", "pixels"}):
            raise SettingError(f"the blocks {unknown} have no gradient with respect to the samples")
        self.features = tuple(known[b] for b in cotangent if b in known)
        self._module = module
        self._cotangent = cotangent
        self._group_size = group_size

    def at(self, gradients: Sequence[Named], index: int) -> list[Named]:
        """Return v of every member of group ``index``, whose parameter gradients are given."""
        weights: list[Named] = [{} for _ in gradients]
        for feature in self.features:
            rows = self._cotangent[feature.block][index]
            if feature.per_sample:
                own = [self._pulled(feature, g, rows[i]) for i, g in enumerate(gradients)]
            else:
                total = {n: torch.stack([g[n].detach() for g in gradients]).sum(0) for n in gradients[0]}
                own = [self._pulled(feature, total, rows)] * len(gradients)
            weights = [_added(w, o) for w, o in zip(weights, own, strict=True)]
        return weights

    def _pulled(self, feature: GradientFeature, gradients: Named, cotangent: NDArray[Any]) -> Named:
        """Return d <cotangent, block> / d g at the gradients of one sample or group."""
        leaves = {n: g.detach().requires_grad_() for n, g in gradients.items()}
        reduction = feature.reduction(self._module, 1 if feature.per_sample else self._group_size)
        for name, leaf in leaves.items():
            reduction.update(name, DenseForm(leaf[None]))
        block = feature.to_block(reduction.result(list(leaves)), self._group_size)[0]
        inner = (block * torch.from_numpy(np.ascontiguousarray(cotangent)).to(block)).sum()
        found = torch.autograd.grad(inner, list(leaves.values()), allow_unused=True)
        return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(leaves.items(), found, strict=True)}


def contributions(gradients: Sequence[Named], weights: Sequence[Named], names: Sequence[str]) -> Tensor:
    """Return <v, g> by parameter, summed over the members, (L,) float64; zeros where the score reads no gradient."""
    totals = torch.zeros(len(names), dtype=torch.float64)
    for gradient, weight in zip(gradients, weights, strict=True):
        for i, name in enumerate(names):
            if name in weight:
                totals[i] += float((weight[name] * gradient[name].detach()).sum())
    return totals


def _added(first: Named, second: Named) -> Named:
    return {**first, **{n: first[n] + v if n in first else v for n, v in second.items()}}
