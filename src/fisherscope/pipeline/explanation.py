"""Why a guard finds samples novel: where in each sample, and in which layers of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors import (
    LayerProfile,
    learnt_profile,
    reference_profile,
    require_differentiable,
)
from fisherscope.detectors.base import Scores
from fisherscope.detectors.profile import NORMS
from fisherscope.features.input_gradient import InputGradient
from fisherscope.features.position_map import PositionMap
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.extraction import ReportProgress, extract_table
from fisherscope.pipeline.guard import Guard, require_fitting_table
from fisherscope.pipeline.saliency import (
    ExplainSettings,
    Method,
    blurred,
    chosen_method,
    contrast_map,
    leverage,
    mean_gradient,
    positions,
)

Array = NDArray[np.float64]
Kind = Literal["pixels", "tokens", "columns", "entries"]


@dataclass(frozen=True)
class Explanation:
    """What makes groups of samples novel. N groups of B samples.

    Attributes:
        ids: names of each group's samples.
        score: higher = more novel, (N,).
        p_value: see :class:`Verdict`, (N,).
        novel: whether p_value is at most the guard's false-alarm rate, (N,).
        maps: how much of the score comes from each part of each sample, or how much it reacts to each, as the settings
            say: ``pixels`` (N, B, H, W), ``tokens`` (N, B, T), ``columns`` (N, B, D), or ``entries``, the shape of the
            samples.
        kind: which of these.
        method: what kind of map, see :class:`ExplainSettings`.
        layers: what each layer contributes, or None where neither the detector nor a reference tells.
        left_out: names of the samples that fill no last group and were not judged.
    """

    ids: tuple[tuple[str, ...], ...]
    score: Scores
    p_value: Scores
    novel: NDArray[np.bool_]
    maps: Array
    kind: Kind
    method: Method
    layers: LayerProfile | None
    left_out: tuple[str, ...] = ()


def explain_groups(
    guard: Guard,
    x: Any,
    settings: ExplainSettings | None = None,
    *,
    table: FeatureTable | None = None,
    reference: Any = None,
    report: ReportProgress | None = None,
) -> Explanation:
    """Return why groups are novel to a guard.

    The map is made of d score / d x, exact, by differentiating log p twice, or of the positions that the score's
    parameter gradient comes from; the model's noise stays that of the sample itself.
    Where the model reads integers (tokens), the gradient is taken at the output of the embedding that looks them up. A
    causal model's last token is looked up by nothing, so its entry is 0 although its own probability enters the score.

    Args:
        guard: fitted; its detector must have a gradient (for a map of leverage it need not).
        x: samples (n, ...); those left over by whole groups are not judged, see ``left_out``.
        settings: see :class:`ExplainSettings`.
        table: what the guard extracted of the same samples, where that is at hand.
        reference: in-distribution samples, or their table with the block ``grad_norm``, that the layers' z-values
            compare with. None: what the detector has learnt, else the layers' contributions to the score. A map of
            leverage compares with them too, and needs the samples.
        report: called with (gradients done, gradients in all).

    Raises:
        SettingError: the detector has no gradient (the message names those that have), or the model's samples cannot be
            perturbed.
        DataError: x is a table, or of several arrays.
        ModelError: log p cannot be differentiated as the method needs it.
    """
    settings = settings or ExplainSettings()
    require_explainable(guard, settings, reference)
    if isinstance(x, FeatureTable):
        raise DataError("a feature table holds no samples to differentiate by; give the samples themselves")
    size = guard.card.group_size
    given = guard.batches(x)
    table = guard.extract_checked(given) if table is None else table
    batches = given.whole_groups(size)
    verdict = guard.judge(table)
    method = chosen_method(batches, settings)
    found: InputGradient | PositionMap | Array
    if method == "leverage":
        found = leverage(guard, batches, guard.batches(reference), report)
    elif method == "positions":
        found = positions(guard, batches, table, report)
    else:
        found = mean_gradient(guard, batches, table, settings, report)
    maps, kind = _maps(found, batches, method, settings)
    return Explanation(
        ids=verdict.ids,
        score=verdict.score,
        p_value=verdict.p_value,
        novel=verdict.novel,
        maps=maps.reshape(-1, size, *maps.shape[1:]),
        kind=kind,
        method=method,
        layers=_profile(guard, table, batches, found, reference),
        left_out=given.left_out(size),
    )


def require_explainable(guard: Guard, settings: ExplainSettings, reference: Any) -> None:
    """Raise :class:`SettingError` where a guard's detector, or the reference, does not do for a kind of map."""
    if settings.method != "leverage":
        require_differentiable(guard.detector)
    elif reference is None or isinstance(reference, FeatureTable):
        raise SettingError("a map of leverage compares with in-distribution samples; give some as the reference")


def _maps(
    found: InputGradient | PositionMap | Array, batches: Batches, method: Method, settings: ExplainSettings
) -> tuple[Array, Kind]:
    """Return maps (n, ...) and what they are of."""
    if not isinstance(found, InputGradient):
        return blurred(found.maps if isinstance(found, PositionMap) else found, method, settings), "pixels"
    signed = settings.aggregate == "sum"
    if found.tokens is not None:
        assert found.embedded is not None
        product = (found.tokens * found.embedded).sum(2)
        return (product if signed else np.linalg.norm(found.tokens, axis=2)), "tokens"
    if not isinstance(found.x, np.ndarray):
        raise DataError("the samples are of several arrays, an explanation is a map of one; give samples of one array")
    if method == "contrast":
        return blurred(contrast_map(found.x, batches.x), method, settings), "pixels"
    if found.x.ndim == 4:
        values = found.x if signed else np.abs(found.x)
        return blurred(values.sum(1), method, settings), "pixels"
    return found.x, "columns" if found.x.ndim == 2 else "entries"


def _profile(
    guard: Guard, table: FeatureTable, batches: Batches, found: InputGradient | PositionMap | Array, reference: Any
) -> LayerProfile | None:
    known = layer_profile(guard, table, batches, reference)
    if known is not None or isinstance(found, np.ndarray) or not found.contributions.any():
        return known
    return LayerProfile("contribution", found.layers, found.contributions)


def layer_profile(guard: Guard, table: FeatureTable, batches: Batches, reference: Any) -> LayerProfile | None:
    """Return the z-values of the layers of some groups, or None where neither reference nor detector tells them.

    Args:
        guard: fitted; its detector need not have a gradient.
        table: what the detector reads of the groups.
        batches: their samples.
        reference: what to compare with, see :func:`explain_groups`; None: what the detector has learnt.

    Raises:
        CardMismatchError: the reference is a table of another model or of other settings.
        DataError: the reference has too few samples or no layer that varies over them.
    """
    if reference is not None:
        known = reference if isinstance(reference, FeatureTable) else _norms(guard, reference)
        mine = table if NORMS in table.blocks else _norms(guard, batches)
        require_fitting_table(mine.card, {NORMS: mine.columns[NORMS]}, (NORMS,), known)
        return reference_profile(known, mine)
    return learnt_profile(guard.detector, table)


def _norms(guard: Guard, samples: Any) -> FeatureTable:
    return extract_table(guard.target, guard.batches(samples), [NORMS], guard.settings)
