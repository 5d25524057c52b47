"""Dampings that an update leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fisherscope.core.parts import part
from fisherscope.features.metrics.base import State


class Dampings:
    """Dampings lambda = ``relative`` x the mean of what is damped, as it was when the name was first asked for.

    Args:
        relative: of a first fit.
    """

    def __init__(self, relative: float) -> None:
        self._relative = relative
        self._absolute: dict[str, float] = {}

    def relative_to(self, values: Tensor, name: str) -> float:
        """Return a name's lambda over the mean of ``values``: a later fit has another mean, not another lambda.

        The values, of any shape, are not all 0.
        """
        mean = float(values.mean())
        return self._absolute.setdefault(name, self._relative * mean) / mean

    def state(self) -> State:
        """Return the lambdas as arrays."""
        return {f"damping:{name}": np.asarray(value) for name, value in self._absolute.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state` returned."""
        self._absolute = {name: float(value) for name, value in part(state, "damping:").items()}
