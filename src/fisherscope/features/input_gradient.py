"""From d score / d block, as numbers, to d score / d x: differentiating log p twice.

The blocks are functions of the gradients g = d log p / d theta. With v = d score / d g, held fixed, d score / d x is
the gradient of <v, g(x)>, one more backward pass: the derivative with respect to x of log p's directional derivative
along v in parameter space (Pearlmutter 1994). Exact for every feature that is differentiable in g; group by group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from fisherscope.core.errors import ModelError
from fisherscope.features.embedding_watch import EmbeddingWatch
from fisherscope.features.extractors import Request
from fisherscope.features.gradients import bind_log_prob
from fisherscope.features.gradients.guards import check_modes, trainable_parameters, unchanged_state, without_autocast
from fisherscope.features.gradients.logprob import check_log_prob
from fisherscope.features.metrics.feature import GradientFeature
from fisherscope.features.parameter_cotangent import Named, ParameterCotangent, contributions
from fisherscope.features.second_gradient import second_gradient

Array = NDArray[np.float64]

_ATTENTION: Final = RLock()
"""Which attention kernels torch may use is set for the whole process: by one explanation at a time."""


@dataclass(frozen=True)
class InputGradient:
    """How the score changes with the samples.

    Attributes:
        x: d score / d x in the structure of the samples, float64 arrays (n, ...), per unit of x as the model is
            given it (levels 0..255 for images); zeros for what the model reads as integers.
        tokens: d score / d embedding where the model reads integers, (n, T, D), else None. Several lookups of a token
            are added up where they read one table, and lie side by side where they read several. The last token of a
            model that predicts each token from those before it is read by nothing: its row is zero.
        embedded: what the embedding of each token is, less the mean over the vocabulary, (n, T, D), or None.
        contributions: <d score / d g_l, g_l> of each group and parameter tensor, (n / B, L); zeros where the score
            reads no parameter gradient.
        layers: names of the parameter tensors.
    """

    x: Any
    tokens: Array | None
    embedded: Array | None
    contributions: Array
    layers: tuple[str, ...]


def input_gradient(
    request: Request, cotangent: Mapping[str, NDArray[Any]], features: Sequence[GradientFeature]
) -> InputGradient:
    """Return d score / d x of every sample.

    Args:
        request: the samples. Noise of the model is that of ``request.keys``, whatever ``x`` holds: give a perturbed
            copy the keys of the original.
        cotangent: d score / d block by block, each with the block's shape (N, ...) or (N, B, ...).
        features: what fills the gradient blocks among them.

    Raises:
        ModelError: log p cannot be differentiated twice, or does not depend on the samples differentiably and looks up
            no embedding of them.
        SettingError: a block has no gradient.
    """
    pull = ParameterCotangent(request.module, cotangent, features, request.group_size)
    check_modes(request.module)
    job = _Job(request, cotangent, pull)
    with (
        _ATTENTION,
        torch.inference_mode(False),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),  # the fused attention kernels have no second derivative
        unchanged_state(request.module),
        without_autocast(request.module),
    ):
        groups = [job.group(i) for i in range(len(request.keys) // request.group_size)]
    return _joined(groups, request, tuple(trainable_parameters(request.module)))


@dataclass(frozen=True)
class _Member:
    """One sample of a group: its tensors, log p and parameter gradients, all with their graphs."""

    leaves: list[Tensor]
    watch: EmbeddingWatch
    log_p: Tensor
    gradients: Named


@dataclass(frozen=True)
class _Slopes:
    """d score / d one sample: of its leaves, and of its tokens with their embeddings."""

    leaves: list[Tensor]
    tokens: tuple[Tensor, Tensor] | None


class _Job:
    def __init__(self, request: Request, cotangent: Mapping[str, NDArray[Any]], pull: ParameterCotangent) -> None:
        self._request = request
        self._cotangent = cotangent
        self._pull = pull
        self._parameters = trainable_parameters(request.module)
        self._log_prob = bind_log_prob(request.module, request.log_prob)
        self._leaves, self._spec = pytree.tree_flatten(request.tensors())

    def group(self, index: int) -> tuple[list[_Slopes], Tensor]:
        """Return the slopes of each member of a group, and the contributions of its layers, (L,)."""
        size = self._request.group_size
        members = [self._member(index * size + i) for i in range(size)]
        gradients = [m.gradients for m in members]
        weights = self._pull.at(gradients, index)
        objective: Tensor | float = sum(
            (w[n] * m.gradients[n]).sum() for m, w in zip(members, weights, strict=True) for n in w
        )
        if "log_p" in self._cotangent:
            rows = self._cotangent["log_p"][index]
            objective = objective + sum(float(c) * m.log_p for m, c in zip(members, rows, strict=True))
        pixels = self._cotangent["pixels"][index] if "pixels" in self._cotangent else [None] * size
        slopes = [self._slopes(objective, m, p) for m, p in zip(members, pixels, strict=True)]
        return slopes, contributions(gradients, weights, list(self._parameters))

    def _member(self, row: int) -> _Member:
        leaves = [leaf[row : row + 1].detach().clone() for leaf in self._leaves]
        for leaf in leaves:
            leaf.requires_grad_(leaf.is_floating_point())
        keys = self._request.keys[row : row + 1]
        with EmbeddingWatch(self._request.module, leaves) as watch:
            value = self._log_prob(pytree.tree_unflatten(leaves, self._spec), self._request.seed, keys)
        log_p = check_log_prob(value, 1, row)[0]
        if not self._pull.features:
            return _Member(leaves, watch, log_p, {})
        found = torch.autograd.grad(log_p, list(self._parameters.values()), create_graph=True, allow_unused=True)
        pairs = zip(self._parameters.items(), found, strict=True)
        return _Member(leaves, watch, log_p, {n: torch.zeros_like(p) if g is None else g for (n, p), g in pairs})

    def _slopes(self, objective: Tensor | float, member: _Member, pixels: NDArray[Any] | None) -> _Slopes:
        floating = [leaf for leaf in member.leaves if leaf.requires_grad]
        lookup = member.watch.find()
        found = second_gradient(objective, [*floating, *([] if lookup is None else lookup.rows)])
        slopes = {id(leaf): slope for leaf, slope in zip(floating, found, strict=False) if slope is not None}
        leaves = [slopes.get(id(leaf), torch.zeros_like(leaf)).double() for leaf in member.leaves]
        if pixels is not None:
            leaves[0] = leaves[0] + torch.from_numpy(pixels[None]).to(leaves[0])
        if slopes or pixels is not None:
            return _Slopes(leaves, None)
        at_rows = found[len(floating) :]
        if lookup is None or all(slope is None for slope in at_rows):
            raise ModelError(
                f"{type(self._request.module).__name__}: the score depends on no sample differentiably, and no lookup "
                "of its integers in a parameter was found; read the samples as floating numbers, or by an nn.Embedding"
            )
        return _Slopes(leaves, (lookup.by_token(at_rows), lookup.difference))


def _joined(groups: Sequence[tuple[list[_Slopes], Tensor]], request: Request, names: tuple[str, ...]) -> InputGradient:
    samples = [slopes for members, _ in groups for slopes in members]
    leaves = [torch.cat(column).cpu().numpy() for column in zip(*(s.leaves for s in samples), strict=True)]
    tokens = [s.tokens for s in samples if s.tokens is not None]

    def stacked(place: int) -> Array | None:
        return torch.stack([pair[place].double() for pair in tokens]).cpu().numpy() if tokens else None

    return InputGradient(
        x=pytree.tree_unflatten(leaves, pytree.tree_structure(request.x)),
        tokens=stacked(0),
        embedded=stacked(1),
        contributions=torch.stack([total for _, total in groups]).numpy(),
        layers=names,
    )
