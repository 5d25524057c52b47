"""Fisher metrics: what is kept of the parameter gradients, and in which metric they are measured."""

from fisherscope.features.metrics.base import FisherMetric
from fisherscope.features.metrics.fit import (
    RunPass,
    fit_metrics,
    load_metric,
    metric_fingerprint,
    save_metric,
    update_metrics,
)
from fisherscope.features.metrics.frames import CoordinateMoments, Frame, LayerLengths
from fisherscope.features.metrics.raw import SketchSettings
from fisherscope.features.metrics.registry import is_built_in_metric, make_metric, metric_names, require_own_name

__all__ = [
    "CoordinateMoments",
    "FisherMetric",
    "Frame",
    "LayerLengths",
    "RunPass",
    "SketchSettings",
    "fit_metrics",
    "is_built_in_metric",
    "load_metric",
    "make_metric",
    "metric_fingerprint",
    "metric_names",
    "require_own_name",
    "save_metric",
    "update_metrics",
]
