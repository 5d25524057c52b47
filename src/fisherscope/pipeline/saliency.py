"""Gradients of a guard's score with respect to samples, at the samples or averaged around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from fisherscope.core.errors import SettingError
from fisherscope.detectors import score_cotangent
from fisherscope.features.extractors import Request, gradient_features
from fisherscope.features.input_gradient import InputGradient, input_gradient
from fisherscope.features.perturbation import perturbed
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.guard import Guard

Array = NDArray[np.float64]
Report = Callable[[int, int], None]

NOISE_SHARE: Final = 0.02
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


def mean_gradient(guard: Guard, batches: Batches, settings: ExplainSettings, report: Report | None) -> InputGradient:
    """Return d score / d x averaged over the perturbed copies, or at the samples themselves.

    Args:
        guard: its detector has a gradient.
        batches: whole groups.
        settings: number and size of the perturbations.
        report: called with (gradients done, gradients in all).

    Raises:
        SettingError: the samples cannot be perturbed as asked.
    """
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
