"""Detectors that can be differentiated: d score / d block, the numbers in which an explanation crosses the waist.

``features`` turns them into the gradient with respect to the input: with c = d score / d block, the score changes with
x as the inner product of c, held fixed, and the block of x does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError, NotFittedError, SettingError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector
from fisherscope.detectors.registry import detector_names, make_detector

Cotangent = dict[str, NDArray[np.float64]]


class Differentiable(ABC):
    """What a detector is too when its score has a gradient with respect to the blocks.

    Attributes:
        differentiable: False where a setting takes the gradient away.
    """

    differentiable: bool = True

    @abstractmethod
    def _cotangent(self, table: FeatureTable) -> Cotangent:
        """Return d score / d block of every group by name of the block, each of the block's shape.

        Blocks without a slope, such as code lengths, are left out: they are held fixed.
        """


def is_differentiable(detector: Detector) -> bool:
    """Return whether :func:`score_cotangent` works with a detector."""
    return isinstance(detector, Differentiable) and detector.differentiable


def differentiable_names() -> tuple[str, ...]:
    """Return the names of the built-in detectors that have a gradient."""
    return tuple(name for name in detector_names() if is_differentiable(make_detector(name)))


def require_differentiable(detector: Detector) -> None:
    """Raise :class:`SettingError` naming the detectors that have a gradient when this one has none."""
    if not is_differentiable(detector):
        raise SettingError(
            f"{detector.name} has no gradient, so it cannot say where in a sample the novelty lies; "
            f"fit one of these instead: {', '.join(differentiable_names())}"
        )


def score_cotangent(detector: Detector, table: FeatureTable) -> Cotangent:
    """Return d score / d block of every group.

    Args:
        detector: fitted.
        table: with the blocks that it requires.

    Returns:
        By name of the block, float64, each of the block's shape: row i is the gradient of the score of group i, which
        depends on no other row. Where a score has a kink, one of its one-sided derivatives.

    Raises:
        SettingError: the detector has no gradient; the message names those that have.
        NotFittedError: the detector is not fitted.
        CardMismatchError: the table's layers are not those of the fit table.
        DataError: a gradient is NaN or inf.
    """
    require_differentiable(detector)
    if not detector.state():
        raise NotFittedError(f"{detector.name} was asked for a gradient before it was fitted; call fit first")
    detector.require_same_columns(table)
    assert isinstance(detector, Differentiable)
    cotangent = detector._cotangent(table)
    for block, values in cotangent.items():
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(
                f"the gradient of {detector.name} with respect to {block} is NaN or inf for "
                f"{', '.join(table.ids[row])}; look at that sample"
            )
    return cotangent
