"""Detectors whose score is the same whatever they are fitted on."""

from __future__ import annotations

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector


class FixedScore(Detector):
    """A detector that learns nothing. ``mean_`` is the fit set's mean score, for the record."""

    min_fit = 1

    mean_: float

    def _fit(self, table: FeatureTable) -> None:
        self.mean_ = float(self._score(table).mean())
