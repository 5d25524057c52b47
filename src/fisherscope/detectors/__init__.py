"""Novelty scores from feature tables; numpy in, score out. Higher = more novel."""

from fisherscope.detectors.base import Detector
from fisherscope.detectors.conformal import ConformalCalibration
from fisherscope.detectors.registry import (
    DEFAULT_DETECTOR,
    STANDARD_DETECTORS,
    detector_names,
    is_built_in,
    make_detector,
)

__all__ = [
    "DEFAULT_DETECTOR",
    "STANDARD_DETECTORS",
    "ConformalCalibration",
    "Detector",
    "detector_names",
    "is_built_in",
    "make_detector",
]
