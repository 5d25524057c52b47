"""Extractors: each fills one or more blocks of a feature table from one batch of samples."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.features.forward import ForwardPass
from fisherscope.features.gradients import PassResult, gradient_pass
from fisherscope.features.gradients.logprob import LogProb
from fisherscope.features.metrics import FisherMetric, metric_fingerprint
from fisherscope.features.metrics.feature import GradientFeature
from fisherscope.features.metrics.raw import (
    GlobalSketch,
    LayerNorms,
    LayerSketch,
    SketchNorms,
    SketchSettings,
    TermNorms,
)
from fisherscope.features.terms import named_by_term, term_log_prob

if TYPE_CHECKING:
    from fisherscope.features.companions import Companion

Blocks = dict[str, NDArray[Any]]

TERM_LOG_P: Final = "term_log_p"

_SUMS: Final[WeakSet[nn.Module]] = WeakSet()  # whose terms were seen to add up
_PROBED: Final = 3
_ROUND_OFF: Final = 1e-4  # of float32, in sums of thousands of nats that partly cancel

_OF_SAMPLES: Final[Mapping[str, str]] = {
    "code_length": "fisherscope.features.complexity:CodeLength",
    "predictive_length": "fisherscope.features.complexity:PredictiveLength",
    "codec_bytes": "fisherscope.features.codecs:CodecBytes",
    "statistics": "fisherscope.features.statistics:Statistics",
    "jacobian_spectrum": "fisherscope.features.jacobian:JacobianSpectrum",
    "regret": "fisherscope.features.regret:Regret",
    "score_norms": "fisherscope.features.denoising:ScoreNorms",
    "path_statistics": "fisherscope.features.denoising:PathStatistics",
    "restoration": "fisherscope.features.denoising:Restoration",
    "score_curvature": "fisherscope.features.denoising:ScoreCurvature",
}
"""Blocks of single samples without parameter gradients, each as ``module:class``, imported only when wanted."""

_WITH_COMPANIONS: Final[Mapping[str, str]] = {
    "ensemble_log_p": "fisherscope.features.companions:EnsembleLogProbability",
    "background_log_p": "fisherscope.features.companions:BackgroundLogProbability",
}
"""Likewise; these classes take the further models."""


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
            # a copy: a model may change its input in place
            tensor = torch.tensor(leaf, device=like.device)
            return tensor.to(like.dtype) if leaf.dtype == np.uint8 or leaf.dtype.kind == "f" else tensor

        return pytree.tree_map(convert, self.x)

    def grouped(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (n, ...) as (n / B, B, ...)."""
        return values.reshape(-1, self.group_size, *values.shape[1:])


def by_term(request: Request, terms: Sequence[str]) -> list[Request]:
    """Return the same samples with each of the terms of log p in its place."""
    return [replace(request, log_prob=term_log_prob(index)) for index in range(len(terms))]


class Extractor(ABC):
    """Fills blocks of a feature table.

    Attributes:
        blocks: their names.
    """

    blocks: tuple[str, ...]

    @abstractmethod
    def extract(self, request: Request) -> Blocks:
        """Return its blocks for the groups of one batch."""

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        """Return the names of the last axis of those blocks that have names; here none."""
        return {}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        """Return what the table's card must say of its blocks, by block; here nothing."""
        return {}


class GradientBlocks(Extractor):
    """The blocks of some gradient features, and ``log_p`` (N, B) of the same pass.

    Features of groups and features of single samples share one pass when B = 1 and take two otherwise; features of
    the terms of log p take one a term, and fill ``term_log_p`` (N, B, T) beside them.

    Args:
        features: what to fill.
        terms: names of the terms of log p; none where it is one.
    """

    def __init__(self, features: Sequence[GradientFeature], terms: tuple[str, ...] = ()) -> None:
        self._terms = terms
        self._by_term = tuple(f for f in features if f.per_term)
        self._whole = tuple(f for f in features if not f.per_term)
        self.blocks = (*(f.block for f in features), "log_p", *([TERM_LOG_P] if self._by_term else []))

    def extract(self, request: Request) -> Blocks:
        if not self._by_term:
            return _fill(request, self._whole)
        if not self._terms:  # one pass for all
            blocks = _fill(request, (*self._whole, *self._by_term))
            return blocks | {TERM_LOG_P: blocks["log_p"][..., None]}
        parts = [_fill(r, self._by_term) for r in by_term(request, self._terms)]
        log_p = np.stack([part["log_p"] for part in parts], axis=-1)
        require_sum(request, log_p)
        blocks = {f.block: np.concatenate([part[f.block] for part in parts], axis=-1) for f in self._by_term}
        return blocks | {TERM_LOG_P: log_p, "log_p": log_p.sum(-1)} | _fill(request, self._whole)

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        named = {f.block: f.columns(module) for f in self._whole}
        for feature in self._by_term:
            names = feature.columns(module)
            named[feature.block] = names and named_by_term(names, self._terms)
        if self._by_term and self._terms:
            named[TERM_LOG_P] = self._terms
        return {block: names for block, names in named.items() if names is not None}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        said = {}
        for feature in (*self._whole, *self._by_term):
            fitted = {} if feature.metric is None else {"metric": feature.metric}
            terms = {"terms": list(self._terms)} if feature.per_term else {}
            said[feature.block] = {**(feature.settings(module) or {}), **fitted, **terms}
        return {block: value for block, value in said.items() if value}


def _fill(request: Request, features: Sequence[GradientFeature]) -> Blocks:
    """Return the blocks of some features and log p, in one pass or two."""
    blocks: Blocks = {}
    for size in sorted({_size(f, request) for f in features}):
        chosen = [f for f in features if _size(f, request) == size]
        done = _run_pass(request, size, chosen)
        for feature, result in zip(chosen, done.results, strict=True):
            rows = feature.to_block(result, request.group_size).cpu().numpy()
            blocks[feature.block] = request.grouped(rows) if feature.per_sample else rows
        blocks["log_p"] = request.grouped(done.log_p.double().cpu().numpy())
    return blocks


def _size(feature: GradientFeature, request: Request) -> int:
    return 1 if feature.per_sample else request.group_size


def _run_pass(request: Request, group_size: int, features: Sequence[GradientFeature]) -> PassResult:
    return gradient_pass(
        request.module,
        request.tensors(),
        [f.reduction(request.module, group_size) for f in features],
        log_prob=request.log_prob,
        group_size=group_size,
        seed=request.seed,
        keys=request.keys,
        method=request.method,
        max_memory=request.max_memory,
    )


class LogProbability(Extractor):
    """``log_p`` (N, B) alone, in nats: a forward pass without gradients."""

    blocks = ("log_p",)

    def __init__(self) -> None:
        self._pass = ForwardPass()

    def extract(self, request: Request) -> Blocks:
        return {"log_p": forward_log_p(self._pass, request)}


def forward_log_p(forward: ForwardPass, request: Request) -> NDArray[Any]:
    """Return log p of a request's samples in nats, (N, B), without gradients."""
    log_p = forward.log_p(request.module, request.log_prob, request.tensors(), request.seed, request.keys)
    return request.grouped(log_p.double().cpu().numpy())


def require_sum(request: Request, terms: NDArray[Any]) -> None:
    """Raise :class:`ModelError` where terms (N, B, T) do not add up to log p, asked once of each model."""
    if request.module in _SUMS:
        return
    some = terms.reshape(-1, terms.shape[-1])[:_PROBED]
    x = pytree.tree_map(lambda leaf: leaf[: len(some)], request.x)
    few = replace(request, x=x, keys=request.keys[: len(some)], group_size=1)
    log_p = forward_log_p(ForwardPass(), few)[:, 0]
    off = np.abs(some.sum(-1) - log_p) > _ROUND_OFF * np.abs(some).sum(-1)
    if off.any():
        first = int(np.argmax(off))
        raise ModelError(
            f"log p of a sample is {log_p[first]:.6g}, but the terms that {type(request.module).__name__} takes it "
            f"apart into add up to {some[first].sum():.6g}; let term_log_prob return parts of it, or name no terms"
        )
    _SUMS.add(request.module)


class TermLogProbability(Extractor):
    """``term_log_p`` (N, B, T) alone, in nats: each of the terms of log p, by forward passes.

    Args:
        terms: their names; none where log p is one.
    """

    blocks = (TERM_LOG_P,)

    def __init__(self, terms: tuple[str, ...]) -> None:
        self._terms = terms
        self._passes = tuple(ForwardPass() for _ in terms or ("",))

    def extract(self, request: Request) -> Blocks:
        parts = zip(self._passes, by_term(request, self._terms) or [request], strict=True)
        log_p = np.stack([forward_log_p(*part) for part in parts], axis=-1)
        if self._terms:
            require_sum(request, log_p)
        return {TERM_LOG_P: log_p}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {TERM_LOG_P: self._terms} if self._terms else {}


class Pixels(Extractor):
    """``pixels`` (N, B, ...): the samples themselves, for detectors that use no model."""

    blocks = ("pixels",)

    def extract(self, request: Request) -> Blocks:
        leaves = pytree.tree_leaves(request.x)
        if len(leaves) != 1:
            raise SettingError(
                f"pixels need samples that are one array, these have {len(leaves)}; use another detector"
            )
        return {"pixels": request.grouped(leaves[0])}


def gradient_features(
    sketch: SketchSettings | None = None, metrics: Iterable[FisherMetric] = ()
) -> list[GradientFeature]:
    """Return every feature of the parameter gradients that can fill a block; arguments as :func:`choose_extractors`."""
    settings = sketch or SketchSettings()
    features: list[GradientFeature] = [
        LayerNorms(),
        GlobalSketch(settings),
        LayerSketch(settings),
        SketchNorms(settings),
        TermNorms(settings),
    ]
    for metric in metrics:
        fingerprint = metric_fingerprint(metric)
        for feature in metric.features():
            feature.metric = fingerprint
            features.append(feature)
    return features


def choose_extractors(
    blocks: Iterable[str],
    sketch: SketchSettings | None = None,
    metrics: Iterable[FisherMetric] = (),
    companions: Sequence[Companion] = (),
    terms: tuple[str, ...] = (),
) -> list[Extractor]:
    """Return the extractors that fill ``blocks`` with the fewest passes over the model.

    Args:
        blocks: names of blocks.
        sketch: size and seed of the sketches, where they are wanted.
        metrics: fitted; their blocks are known too.
        companions: further models, for the blocks that need them.
        terms: names of the terms that log p is a sum of, see :func:`~fisherscope.features.terms.term_names`.

    Raises:
        SettingError: nothing fills one of the blocks.
        ModelError: a block needs a companion that is not there.
    """
    wanted = set(blocks)
    features = gradient_features(sketch, metrics)
    known = {"log_p", TERM_LOG_P, "pixels", *_OF_SAMPLES, *_WITH_COMPANIONS, *(f.block for f in features)}
    if not wanted <= known:
        raise SettingError(f"unknown blocks {sorted(wanted - known)}; known: {sorted(known)}")
    chosen: list[Extractor] = []
    if gradients := [f for f in features if f.block in wanted]:
        chosen.append(GradientBlocks(gradients, terms))
    elif "log_p" in wanted:
        chosen.append(LogProbability())
    if TERM_LOG_P in wanted and not any(f.per_term for f in gradients):
        chosen.append(TermLogProbability(terms))
    if "pixels" in wanted:
        chosen.append(Pixels())
    chosen += [_made(home) for block, home in _OF_SAMPLES.items() if block in wanted]
    return chosen + [_made(home, companions) for block, home in _WITH_COMPANIONS.items() if block in wanted]


def _made(home: str, *arguments: Any) -> Extractor:
    module, _, kind = home.partition(":")
    made: Extractor = getattr(importlib.import_module(module), kind)(*arguments)
    return made


def extract_blocks(extractors: Sequence[Extractor], request: Request) -> Blocks:
    """Return the blocks of several extractors for one batch of groups."""
    return {name: block for extractor in extractors for name, block in extractor.extract(request).items()}
