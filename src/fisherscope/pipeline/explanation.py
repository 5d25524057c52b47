"""Why a guard finds samples novel: where in each sample, and in which layers of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors import (
    LayerProfile,
    learnt_profile,
    reference_profile,
    require_differentiable,
    score_cotangent,
)
from fisherscope.detectors.base import Scores
from fisherscope.features.extractors import Request, gradient_features
from fisherscope.features.input_gradient import InputGradient, input_gradient
from fisherscope.features.perturbation import perturbed
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.extraction import extract_table
from fisherscope.pipeline.guard import Guard, require_fitting_table

Array = NDArray[np.float64]
Kind = Literal["pixels", "tokens", "columns", "entries"]
Report = Callable[[int, int], None]

NOISE_SHARE: Final = 0.02
_NORMS: Final = "grad_norm"
_BATCH: Final = 64


@dataclass(frozen=True)
class ExplainSettings:
    """How a gradient becomes a map.

    Attributes:
        smooth: number of perturbed copies of each sample whose gradients are averaged (SmoothGrad, Smilkov et al.
            2017); 0 for the gradient at the sample itself.
        noise: standard deviation of the perturbations in the units of x; None: 2 % of the model's range of values.
        aggregate: ``abs``: sum of the absolute gradients over a pixel's channels, norm of a token's gradient.
            ``sum``: signed sum over the channels, and for a token the product of its gradient with its embedding less
            the mean embedding: what reads as raising the score is positive.
    """

    smooth: int = 0
    noise: float | None = None
    aggregate: Literal["abs", "sum"] = "abs"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.smooth < 0:
            raise SettingError(f"smooth is {self.smooth}, expected a number of perturbed copies, 0 for none")
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise SettingError(f"noise is {self.noise}, expected a standard deviation above 0 in the units of x")
        if self.aggregate not in ("abs", "sum"):
            raise SettingError(f"aggregate is '{self.aggregate}', expected 'abs' or 'sum'")


@dataclass(frozen=True)
class Explanation:
    """What makes groups of samples novel. N groups of B samples.

    Attributes:
        ids: names of each group's samples.
        score: higher = more novel, (N,).
        p_value: see :class:`Verdict`, (N,).
        novel: whether p_value is at most the guard's false-alarm rate, (N,).
        maps: how much the score reacts to each part of each sample, aggregated as the settings say: ``pixels``
            (N, B, H, W), ``tokens`` (N, B, T), ``columns`` (N, B, D), or ``entries``, the shape of the samples.
        kind: which of these.
        layers: what each layer contributes, or None where neither the detector nor a reference tells.
    """

    ids: tuple[tuple[str, ...], ...]
    score: Scores
    p_value: Scores
    novel: NDArray[np.bool_]
    maps: Array
    kind: Kind
    layers: LayerProfile | None


def explain_groups(
    guard: Guard,
    x: Any,
    settings: ExplainSettings | None = None,
    *,
    reference: Any = None,
    report: Report | None = None,
) -> Explanation:
    """Return why groups are novel to a guard.

    The map is d score / d x, exact, by differentiating log p twice; the model's noise stays that of the sample itself.
    Where the model reads integers (tokens), it is taken at the output of the embedding that looks them up. A causal
    model's last token is looked up by nothing, so its entry is 0 although its own probability enters the score.

    Args:
        guard: fitted; its detector must have a gradient.
        x: samples (n, ...); those left over by whole groups are ignored.
        settings: see :class:`ExplainSettings`.
        reference: in-distribution samples, or their table with the block ``grad_norm``, that the layers' z-values
            compare with. None: what the detector has learnt, else the layers' contributions to the score.
        report: called with (gradients done, gradients in all).

    Raises:
        SettingError: the detector has no gradient (the message names those that have), or the model's samples cannot be
            perturbed.
        DataError: x is a table, or of several arrays.
        ModelError: log p cannot be differentiated twice.
    """
    settings = settings or ExplainSettings()
    require_differentiable(guard.detector)
    if isinstance(x, FeatureTable):
        raise DataError("a feature table holds no samples to differentiate by; give the samples themselves")
    batches = as_batches(x, guard.target)
    size = guard.card.group_size
    batches = batches.select(range(len(batches) // size * size))
    table = guard.extract(batches)
    verdict = guard.judge(table)
    mean = _mean_gradient(guard, batches, settings, report)
    maps, kind = _maps(mean, settings)
    return Explanation(
        ids=verdict.ids,
        score=verdict.score,
        p_value=verdict.p_value,
        novel=verdict.novel,
        maps=maps.reshape(-1, size, *maps.shape[1:]),
        kind=kind,
        layers=_profile(guard, table, batches, mean, reference),
    )


def _mean_gradient(guard: Guard, batches: Batches, settings: ExplainSettings, report: Report | None) -> InputGradient:
    """Return the gradient averaged over the perturbed copies, or at the samples themselves."""
    size, draws = guard.card.group_size, max(1, settings.smooth)
    step = max(1, _BATCH // size) * size
    if settings.smooth and _gradient(guard, batches.select(range(size))).tokens is not None:
        raise SettingError("the model reads its samples as integers, which cannot be perturbed; leave smooth at 0")
    parts, done = [], 0
    for start in range(0, len(batches), step):
        part = batches.select(range(start, min(start + step, len(batches))))
        total: InputGradient | None = None
        for copy in _copies(guard, part, settings):
            found = _gradient(guard, copy)
            total = found if total is None else _combined(np.add, [total, found])
            done += len(part)
            if report is not None:
                report(done, draws * len(batches))
        assert total is not None
        parts.append(_combined(lambda values: values / draws, [total]))
    return _combined(lambda *values: np.concatenate(values), parts)


def _copies(guard: Guard, batches: Batches, settings: ExplainSettings) -> Iterator[Batches]:
    if not settings.smooth:
        yield batches
        return
    if not isinstance(batches.x, np.ndarray):
        raise SettingError("samples of several arrays cannot be perturbed; leave smooth at 0")
    low, high = guard.target.value_range or (-math.inf, math.inf)
    deviation = NOISE_SHARE * (high - low) if settings.noise is None else settings.noise
    if not math.isfinite(deviation):
        raise SettingError("the model does not say in which range its samples lie; give noise in the units of x")
    for draw in range(settings.smooth):
        yield replace(batches, x=perturbed(batches.x, batches.keys, deviation, draw, guard.card.seed, (low, high)))


def _gradient(guard: Guard, batches: Batches) -> InputGradient:
    cotangent = score_cotangent(guard.detector, guard.extract(batches))
    request = Request(
        module=guard.target.module,
        log_prob=guard.target.log_prob,
        x=batches.x,
        keys=batches.keys,
        group_size=guard.card.group_size,
        seed=guard.card.seed,
    )
    return input_gradient(request, cotangent, gradient_features(guard.settings.sketch, guard.metrics))


def _combined(combine: Callable[..., Array], parts: Sequence[InputGradient]) -> InputGradient:
    """Return the results of ``combine`` on each array of some gradients."""

    def field(name: str) -> Array | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else combine(*values)

    contributions = field("contributions")
    assert contributions is not None
    return InputGradient(
        x=pytree.tree_map(combine, *(part.x for part in parts)),
        tokens=field("tokens"),
        embedded=field("embedded"),
        contributions=contributions,
        layers=parts[0].layers,
    )


def _maps(gradient: InputGradient, settings: ExplainSettings) -> tuple[Array, Kind]:
    """Return maps (n, ...) and what they are of."""
    signed = settings.aggregate == "sum"
    if gradient.tokens is not None:
        assert gradient.embedded is not None
        product = (gradient.tokens * gradient.embedded).sum(2)
        return (product if signed else np.linalg.norm(gradient.tokens, axis=2)), "tokens"
    if not isinstance(gradient.x, np.ndarray):
        raise DataError("the samples are of several arrays, an explanation is a map of one; give samples of one array")
    values = gradient.x if signed else np.abs(gradient.x)
    if values.ndim == 4:
        return values.sum(1), "pixels"
    return values, "columns" if values.ndim == 2 else "entries"


def _profile(
    guard: Guard, table: FeatureTable, batches: Batches, gradient: InputGradient, reference: Any
) -> LayerProfile | None:
    if reference is not None:
        known = reference if isinstance(reference, FeatureTable) else _norms(guard, reference)
        mine = _norms(guard, batches)
        require_fitting_table(mine.card, {_NORMS: mine.columns[_NORMS]}, (_NORMS,), known)
        return reference_profile(known, mine)
    learnt = learnt_profile(guard.detector, table)
    if learnt is not None or not gradient.contributions.any():
        return learnt
    return LayerProfile("contribution", gradient.layers, gradient.contributions)


def _norms(guard: Guard, samples: Any) -> FeatureTable:
    return extract_table(guard.target, as_batches(samples, guard.target), [_NORMS], guard.settings)
