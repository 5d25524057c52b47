"""One file a detector: numpy in, score out; higher is more novel."""

from fisherscope.detectors.base import DEFAULT_DETECTOR, Detector, detector_names, make_detector
from fisherscope.detectors.conformal import ConformalCalibration

__all__ = ["DEFAULT_DETECTOR", "ConformalCalibration", "Detector", "detector_names", "make_detector"]
