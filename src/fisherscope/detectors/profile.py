"""Which layers make a group novel: their numbers against those of in-distribution groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable, require_columns
from fisherscope.detectors.base import Detector
from fisherscope.detectors.layers import Array, informative_layers, layer_values, log_values

NORMS = "grad_norm"


@dataclass(frozen=True)
class LayerProfile:
    """One number a group and layer.

    Attributes:
        kind: ``z``: log f_l in deviations from its in-distribution mean; ``contribution``: <d score / d g_l, g_l>, the
            layer's share of the score where that is a sum of squares, up to its factor of two.
        layers: names of the parameter tensors, those only that vary on in-distribution samples.
        values: (N, L).
    """

    kind: Literal["z", "contribution"]
    layers: tuple[str, ...]
    values: Array

    def largest(self, group: int, count: int) -> list[tuple[str, float]]:
        """Return the ``count`` layers of the largest magnitude in a group, the largest first, with their values."""
        order = np.argsort(-np.abs(self.values[group]), kind="stable")[:count]
        return [(self.layers[i], float(self.values[group, i])) for i in order]


class LayerStandardising(ABC):
    """What a detector is too when it has learnt how log f_l is distributed."""

    @abstractmethod
    def _standardised(self, table: FeatureTable) -> tuple[NDArray[np.intp], Array] | None:
        """Return the columns that are kept and their z-values, (N, kept); None where a setting learns none."""


def learnt_profile(detector: Detector, table: FeatureTable) -> LayerProfile | None:
    """Return the z-values of a table's layers by what a fitted detector has learnt, or None if it learnt none.

    Raises:
        CardMismatchError: the table's layers are not those of the fit table.
    """
    if not isinstance(detector, LayerStandardising):
        return None
    detector.require_same_columns(table)
    found = detector._standardised(table)
    names = table.columns.get(detector.requires[0])
    if found is None or names is None:
        return None
    kept, values = found
    return LayerProfile("z", tuple(names[i] for i in kept), values)


def reference_profile(reference: FeatureTable, table: FeatureTable) -> LayerProfile:
    """Return the z-values of a table's layers against a table of in-distribution groups, both with ``grad_norm``.

    Raises:
        CardMismatchError: the two come from models of different layers.
        DataError: a table has no ``grad_norm``, or no layer varies over the reference.
    """
    names = reference.columns.get(NORMS, ())
    require_columns(names, table.columns.get(NORMS, ()))
    known = layer_values(reference, NORMS)
    kept, floor = informative_layers(known, reference.card.dtype)
    logs, mine = (log_values(v, floor)[:, kept] for v in (known, layer_values(table, NORMS)))
    return LayerProfile("z", tuple(names[i] for i in kept), (mine - logs.mean(0)) / logs.std(0, ddof=1))
