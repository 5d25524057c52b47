"""Novelty scores from feature tables; numpy in, score out. Higher = more novel."""

from fisherscope.detectors.base import Detector
from fisherscope.detectors.combined import Combined
from fisherscope.detectors.conformal import ConformalCalibration
from fisherscope.detectors.cotangent import (
    Cotangent,
    Differentiable,
    differentiable_names,
    is_differentiable,
    require_differentiable,
    score_cotangent,
)
from fisherscope.detectors.false_discovery import adjusted_p_values, benjamini_hochberg
from fisherscope.detectors.profile import LayerProfile, learnt_profile, reference_profile
from fisherscope.detectors.registry import (
    DEFAULT_DETECTOR,
    STANDARD_DETECTORS,
    detector_names,
    is_built_in,
    make_detector,
    require_settings_of_name,
)
from fisherscope.detectors.updatable import Updatable, is_updatable, require_updatable, updatable_names

__all__ = [
    "DEFAULT_DETECTOR",
    "STANDARD_DETECTORS",
    "Combined",
    "ConformalCalibration",
    "Cotangent",
    "Detector",
    "Differentiable",
    "LayerProfile",
    "Updatable",
    "adjusted_p_values",
    "benjamini_hochberg",
    "detector_names",
    "differentiable_names",
    "is_built_in",
    "is_differentiable",
    "is_updatable",
    "learnt_profile",
    "make_detector",
    "reference_profile",
    "require_differentiable",
    "require_settings_of_name",
    "require_updatable",
    "score_cotangent",
    "updatable_names",
]
