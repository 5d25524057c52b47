"""Where a guard's score comes from: position maps of images, or gradients with respect to the samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch.utils import _pytree as pytree

from fisherscope.core.errors import SettingError
from fisherscope.core.settings import require_whole
from fisherscope.core.table import FeatureTable
from fisherscope.detectors import score_cotangent
from fisherscope.detectors.cotangent import Cotangent
from fisherscope.detectors.summary import CODES
from fisherscope.features.extractors import TERM_LOG_P, Request, by_term, gradient_features
from fisherscope.features.input_gradient import InputGradient, input_gradient
from fisherscope.features.leverage_map import LeverageMap
from fisherscope.features.metrics.feature import GradientFeature
from fisherscope.features.perturbation import perturbed
from fisherscope.features.position_map import PositionMap, position_map
from fisherscope.features.terms import term_names
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.extraction import ReportProgress, request_for
from fisherscope.pipeline.guard import Guard

Array = NDArray[np.float64]

Method = Literal["positions", "contrast", "gradient", "leverage"]

NOISE_SHARE: Final = 0.02
CONTRAST_SHARE: Final = 3 / 32
BLUR_SHARES: Final[Mapping[Method, float]] = {
    "positions": 1 / 8,
    "contrast": 1 / 16,
    "gradient": 0.0,
    "leverage": 1 / 8,
}
"""Widths of the filter over a map, in shares of the image's shorter side (chosen on cifar10 with patches of gtsrb)."""

MOST_REFERENCES: Final = 200
_BATCH: Final = 64


@dataclass(frozen=True)
class ExplainSettings:
    """What kind of map, and how it is drawn.

    Attributes:
        smooth: number of perturbed copies of each sample whose gradients are averaged (SmoothGrad, Smilkov et al.
            2017); 0 for the gradient at the sample itself. Of gradients only.
        noise: standard deviation of the perturbations in the units of x; None: 2 % of the model's range of values.
        aggregate: of gradients: ``abs``: sum of the absolute gradients over a pixel's channels, norm of a token's
            gradient. ``sum``: signed sum over the channels, and for a token the product of its gradient with its
            embedding less the mean embedding: what reads as raising the score is positive. A column's slope has its
            sign with either.
        method: of images. ``contrast``: the gradient times what a Gaussian filter takes away from the pixel, absolute
            after the sum over the channels: to first order, what smoothing that pixel would change in the score.
            ``positions``: where the parameter gradient that the score reads comes from, signed, without what the score
            draws from log p or from pixels, which has no position, see
            :func:`~fisherscope.features.position_map.position_map`. ``gradient``: as ``aggregate`` says. ``leverage``:
            where the model's convolutions read what they do not read in the reference, whatever the detector, see
            :class:`~fisherscope.features.leverage_map.LeverageMap`. None: ``contrast`` for images, ``gradient`` for
            all else.
        blur: standard deviation in pixels of a Gaussian filter over the map of an image; None: 1/8 of the shorter side
            for positions and leverage, 1/16 for contrast, 0 for a gradient.
    """

    smooth: int = 0
    noise: float | None = None
    aggregate: Literal["abs", "sum"] = "abs"
    method: Method | None = None
    blur: float | None = None

    def __post_init__(self) -> None:
        """Check types and ranges."""
        object.__setattr__(self, "smooth", require_whole("smooth", self.smooth, 0))
        if not _is_deviation(self.noise) or self.noise == 0:
            raise SettingError(f"noise is {self.noise!r}, expected a standard deviation above 0 in the units of x")
        if self.aggregate not in ("abs", "sum"):
            raise SettingError(f"aggregate is '{self.aggregate}', expected 'abs' or 'sum'")
        if self.method is not None and self.method not in BLUR_SHARES:
            raise SettingError(f"method is '{self.method}', expected one of: {', '.join(BLUR_SHARES)}")
        if not _is_deviation(self.blur):
            raise SettingError(f"blur is {self.blur!r}, expected a standard deviation in pixels, 0 for none")
        if self.method in ("positions", "leverage") and self.smooth:
            raise SettingError("only gradients are averaged over perturbed copies; leave smooth at 0")


def _is_deviation(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and 0 <= float(value) < math.inf)


def chosen_method(batches: Batches, settings: ExplainSettings) -> Method:
    """Return the settings' method, or the default one for such samples.

    Raises:
        SettingError: it is one of images, and these are none.
    """
    images = isinstance(batches.x, np.ndarray) and batches.x.ndim == 4
    if settings.method is None:
        return "contrast" if images else "gradient"
    if settings.method != "gradient" and not images:
        raise SettingError(f"'{settings.method}' is a map of images, and these samples are none; leave the method out")
    return settings.method


def contrast_map(gradient: Array, x: NDArray[Any]) -> Array:
    """Return |sum over channels of gradient times (x less x under a Gaussian filter)|, (n, H, W).

    Args:
        gradient: d score / d x, (n, C, H, W).
        x: the images.
    """
    detail = x - filtered(x, CONTRAST_SHARE * min(x.shape[-2:]))
    product: Array = np.abs((gradient * detail).sum(1))
    return product


def filtered(values: NDArray[Any], deviation: float) -> Array:
    """Return images or maps (..., H, W) under a Gaussian filter of so many pixels, float64."""
    found: Array = gaussian_filter(values.astype(np.float64), (*(0,) * (values.ndim - 2), deviation, deviation))
    return found


def blurred(maps: Array, method: Method, settings: ExplainSettings) -> Array:
    """Return maps (n, H, W) as they are shown."""
    deviation = BLUR_SHARES[method] * min(maps.shape[-2:]) if settings.blur is None else settings.blur
    return filtered(maps, deviation) if deviation else maps


def positions(guard: Guard, batches: Batches, table: FeatureTable, report: ReportProgress | None) -> PositionMap:
    """Return the map of positions of every image; arguments as for :func:`mean_gradient`.

    Raises:
        ModelError: score or model allow none.
    """
    parts: list[PositionMap] = []
    for part, rows in _parts(guard, batches):
        found = [position_map(*question) for question in _questions(guard, part, table.select(rows))]
        parts.append(
            PositionMap(
                maps=np.sum([f.maps for f in found], axis=0),
                unplaced=np.sum([f.unplaced for f in found], axis=0),
                contributions=np.sum([f.contributions for f in found], axis=0),
                layers=found[0].layers,
            )
        )
        if report is not None:
            report(sum(len(p.maps) for p in parts), len(batches))
    return PositionMap(
        maps=np.concatenate([p.maps for p in parts]),
        unplaced=np.concatenate([p.unplaced for p in parts]),
        contributions=np.concatenate([p.contributions for p in parts]),
        layers=parts[0].layers,
    )


def leverage(guard: Guard, batches: Batches, reference: Batches, report: ReportProgress | None) -> Array:
    """Return the map of leverage of every image, (n, H, W).

    Args:
        guard: whose model reads the images.
        batches: the images.
        reference: in-distribution samples; of more than 200, as many evenly spaced ones are read.
        report: called with (images done, images in all).

    Raises:
        ModelError: the model has no such map.
    """
    known = LeverageMap(_request(guard, part) for part, _ in _parts(guard, reference.evenly(MOST_REFERENCES)))
    maps: list[Array] = []
    for part, _ in _parts(guard, batches):
        maps.append(known.maps(_request(guard, part)))
        if report is not None:
            report(sum(map(len, maps)), len(batches))
    return np.concatenate(maps)


def _parts(guard: Guard, batches: Batches) -> Iterator[tuple[Batches, slice]]:
    """Yield runs of whole groups, about ``_BATCH`` samples each, and which groups they are."""
    size = guard.card.group_size
    step = max(1, _BATCH // size) * size
    for start in range(0, len(batches), step):
        stop = min(start + step, len(batches))
        yield batches.select(range(start, stop)), slice(start // size, stop // size)


def mean_gradient(
    guard: Guard, batches: Batches, table: FeatureTable, settings: ExplainSettings, report: ReportProgress | None
) -> InputGradient:
    """Return d score / d x averaged over the perturbed copies, or at the samples themselves.

    Args:
        guard: its detector has a gradient.
        batches: whole groups.
        table: what the detector reads of them.
        settings: number and size of the perturbations.
        report: called with (gradients done, gradients in all).

    Raises:
        SettingError: the samples cannot be perturbed as asked.
    """
    size, draws = guard.card.group_size, max(1, settings.smooth)
    first = batches.select(range(size)), table.select(slice(0, 1))
    if settings.smooth and _gradient(guard, *first).tokens is not None:
        raise SettingError("the model reads its samples as integers, which cannot be perturbed; leave smooth at 0")
    parts, done = [], 0
    for part, rows in _parts(guard, batches):
        total: InputGradient | None = None
        for copy, read in _copies(guard, part, table.select(rows), settings):
            found = _gradient(guard, copy, read)
            total = found if total is None else _combined(np.add, [total, found])
            done += len(part)
            if report is not None:
                report(done, draws * len(batches))
        assert total is not None
        parts.append(_combined(lambda values: values / draws, [total]))
    return _combined(lambda *values: np.concatenate(values), parts)


def _copies(
    guard: Guard, batches: Batches, table: FeatureTable, settings: ExplainSettings
) -> Iterator[tuple[Batches, FeatureTable]]:
    """Yield the samples, or perturbed copies of them, and what the detector reads of each."""
    if not settings.smooth:
        yield batches, table
        return
    if not isinstance(batches.x, np.ndarray):
        raise SettingError("samples of several arrays cannot be perturbed; leave smooth at 0")
    low, high = guard.target.value_range or (-math.inf, math.inf)
    deviation = NOISE_SHARE * (high - low) if settings.noise is None else settings.noise
    if not math.isfinite(deviation):
        raise SettingError("the model does not say in which range its samples lie; give noise in the units of x")
    for draw in range(settings.smooth):
        x = perturbed(batches.x, batches.keys, deviation, draw, guard.card.seed, (low, high))
        copies = replace(batches, x=x)
        # not checked again: copies are floating even if the samples are integers, and so have no codes of their own
        found = guard.extract_checked(copies)
        codes = {name: values for name, values in table.blocks.items() if name in CODES}
        yield copies, replace(found, blocks={**found.blocks, **codes})


def _gradient(guard: Guard, batches: Batches, table: FeatureTable) -> InputGradient:
    total, *others = (input_gradient(*question) for question in _questions(guard, batches, table))
    for part in others:
        total = replace(_combined(np.add, [total, part]), embedded=total.embedded)
    return total


def _questions(
    guard: Guard, batches: Batches, table: FeatureTable
) -> list[tuple[Request, Cotangent, list[GradientFeature]]]:
    """Return samples with their log p, d score / d block, and what fills the blocks: parts that add up to the score.

    Where the score reads gradients of the terms of log p, each term is a part of its own.
    """
    cotangent = score_cotangent(guard.detector, table)
    request, features = _request(guard, batches), gradient_features(guard.settings.sketch, guard.metrics)
    terms = term_names(guard.target.module, guard.target.log_prob)
    split = [f.block for f in features if f.per_term and f.block in cotangent] + [TERM_LOG_P]
    if not terms or not any(block in cotangent for block in split):
        return [(request, _as_log_p(cotangent), features)]
    rest = {block: slope for block, slope in cotangent.items() if block not in split}
    questions: list[tuple[Request, Cotangent, list[GradientFeature]]] = []
    for index, part in enumerate(by_term(request, terms)):
        own = {b: np.split(cotangent[b], len(terms), axis=-1)[index] for b in split if b in cotangent}
        own = _as_log_p(own | {b: slope for b, slope in rest.items() if b == "log_p"})
        questions.append((part, own | ({} if index else {b: s for b, s in rest.items() if b == "pixels"}), features))
    if whole := {block: slope for block, slope in rest.items() if block not in ("log_p", "pixels")}:
        questions.append((request, whole, features))
    return questions


def _as_log_p(cotangent: Cotangent) -> Cotangent:
    """Return the slopes where log p is one term, its slope as a term added to its own."""
    found = dict(cotangent)
    if (slope := found.pop(TERM_LOG_P, None)) is not None:
        found["log_p"] = found.get("log_p", 0.0) + slope[..., 0]
    return found


def _request(guard: Guard, batches: Batches) -> Request:
    return request_for(guard.target, batches, guard.settings, guard.card.group_size)


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
