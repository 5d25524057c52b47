"""Detectors that go on learning when new good samples arrive."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self, TypeGuard

from fisherscope.core.errors import NotFittedError, SettingError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector
from fisherscope.detectors.registry import detector_names, make_detector


class Updatable(Detector):
    """A detector that can take in further in-distribution groups without those of its fit."""

    @abstractmethod
    def _update(self, table: FeatureTable) -> None:
        """Learn from in-distribution groups beside those learnt from before; dampings and scales stay."""

    def partial_fit(self, table: FeatureTable) -> Self:
        """Take in further in-distribution groups; return self. Scores change: calibrate again.

        Args:
            table: groups that it has not learnt from, extracted as those of the fit were.

        Raises:
            NotFittedError: there was no fit, which alone chooses dampings and scales.
            CardMismatchError: the table's layers are not those of the fit table.
        """
        if not self.state():
            raise NotFittedError(f"{self.name} was asked to take in more groups before it was fitted; call fit first")
        self.require_same_columns(table)
        self._update(table)
        self._settle()
        return self


def is_updatable(detector: Detector) -> TypeGuard[Updatable]:
    """Return whether a detector has ``partial_fit``."""
    return isinstance(detector, Updatable)


def require_updatable(detector: Detector) -> Updatable:
    """Return the detector; one without ``partial_fit`` is a :class:`SettingError` that names those that have it."""
    if not is_updatable(detector):
        raise SettingError(
            f"{detector.name} cannot take in further samples; fit anew on the old and the new samples together, or use "
            f"one of these: {', '.join(updatable_names())}"
        )
    return detector


def updatable_names() -> tuple[str, ...]:
    """Return the names of the built-in detectors that have ``partial_fit``."""
    return tuple(name for name in detector_names() if is_updatable(make_detector(name)))
