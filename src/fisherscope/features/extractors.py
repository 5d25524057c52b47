"""Extractors: each fills one or more blocks of a feature table from one batch of samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.features.gradients import SquaredNorms, bind_log_prob, gradient_pass
from fisherscope.features.gradients.logprob import LogProb, check_log_prob

Blocks = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Request:
    """One batch of whole groups, and how to look at it.

    Attributes:
        module: the model, in the mode and on the device where it is to be evaluated.
        log_prob: callable ``(module, x) -> (n,)``, or None for ``module.log_prob``.
        x: samples, a pytree of arrays (n, ...) with the batch first.
        keys: their keys, shape (n,).
        group_size: B; n is a multiple of it.
        seed: seed of the model's noise.
        method: ``batched`` or ``loop``, see :func:`fisherscope.gradient_norms`.
        max_memory: bytes that the gradient pass may use, or None.
    """

    module: nn.Module
    log_prob: LogProb | None
    x: Any
    keys: KeyArray
    group_size: int = 1
    seed: int = 0
    method: str = "batched"
    max_memory: int | None = None

    def tensors(self) -> Any:
        """Return x as tensors on the module's device; floats and 8-bit images in the module's dtype."""
        like = next(p for p in self.module.parameters() if p.is_floating_point())

        def convert(leaf: NDArray[Any]) -> torch.Tensor:
            tensor = torch.from_numpy(np.ascontiguousarray(leaf)).to(like.device)
            return tensor.to(like.dtype) if leaf.dtype == np.uint8 or leaf.dtype.kind == "f" else tensor

        return pytree.tree_map(convert, self.x)

    def grouped(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (n, ...) as (n / B, B, ...)."""
        return values.reshape(-1, self.group_size, *values.shape[1:])


class Extractor(ABC):
    """Fills blocks of a feature table."""

    blocks: ClassVar[tuple[str, ...]]

    @abstractmethod
    def extract(self, request: Request) -> Blocks:
        """Return its blocks for the groups of one batch."""

    @abstractmethod
    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        """Return the names of the last axis of those blocks that have names."""


class GradientNorms(Extractor):
    """``grad_norm`` (N, L), f_l of every trainable parameter tensor, and ``log_p`` (N, B) of the same pass."""

    blocks: ClassVar[tuple[str, ...]] = ("grad_norm", "log_p")

    def extract(self, request: Request) -> Blocks:
        result = gradient_pass(
            request.module,
            request.tensors(),
            [SquaredNorms()],
            log_prob=request.log_prob,
            group_size=request.group_size,
            seed=request.seed,
            keys=request.keys,
            method=request.method,
            max_memory=request.max_memory,
        )
        norms = torch.stack(list(result.results[0].values()), dim=1)
        return {
            "grad_norm": norms.double().cpu().numpy(),
            "log_p": request.grouped(result.log_p.double().cpu().numpy()),
        }

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {"grad_norm": tuple(name for name, p in module.named_parameters() if p.requires_grad)}


class LogProbability(Extractor):
    """``log_p`` (N, B) alone, in nats: a forward pass without gradients."""

    blocks: ClassVar[tuple[str, ...]] = ("log_p",)

    @torch.no_grad()
    def extract(self, request: Request) -> Blocks:
        bound = bind_log_prob(request.module, request.log_prob)
        log_p = check_log_prob(bound(request.tensors(), request.seed, request.keys), len(request.keys))
        return {"log_p": request.grouped(log_p.double().cpu().numpy())}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {}


class Pixels(Extractor):
    """``pixels`` (N, B, ...): the samples themselves, for detectors that use no model."""

    blocks: ClassVar[tuple[str, ...]] = ("pixels",)

    def extract(self, request: Request) -> Blocks:
        leaves = pytree.tree_leaves(request.x)
        if len(leaves) != 1:
            raise SettingError(
                f"pixels need samples that are one array, these have {len(leaves)}; use another detector"
            )
        return {"pixels": request.grouped(leaves[0])}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {}


_EXTRACTORS: Final = (GradientNorms(), LogProbability(), Pixels())


def choose_extractors(blocks: Iterable[str]) -> list[Extractor]:
    """Return the extractors that fill ``blocks`` with the fewest passes over the model.

    Raises:
        SettingError: nothing fills one of the blocks.
    """
    wanted = set(blocks)
    known = {block for extractor in _EXTRACTORS for block in extractor.blocks}
    if not wanted <= known:
        raise SettingError(f"unknown blocks {sorted(wanted - known)}; known: {sorted(known)}")
    if "grad_norm" in wanted:
        wanted.add("log_p")  # it comes with the same pass, at no cost
    chosen: list[Extractor] = []
    for extractor in _EXTRACTORS:
        covered = {block for c in chosen for block in c.blocks}
        # GradientNorms fills log_p too, but is not worth its backward pass for that block alone.
        if extractor.blocks[0] in wanted - covered:
            chosen.append(extractor)
    return chosen


def extract_blocks(extractors: Sequence[Extractor], request: Request) -> Blocks:
    """Return the blocks of several extractors for one batch of groups."""
    return {name: block for extractor in extractors for name, block in extractor.extract(request).items()}
