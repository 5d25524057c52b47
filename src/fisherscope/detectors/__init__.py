"""Novelty scores from feature tables; numpy in, score out. Higher = more novel."""

from fisherscope.detectors.base import Detector
from fisherscope.detectors.conformal import ConformalCalibration
from fisherscope.detectors.registry import DEFAULT_DETECTOR, detector_names, make_detector

__all__ = ["DEFAULT_DETECTOR", "ConformalCalibration", "Detector", "detector_names", "make_detector"]
