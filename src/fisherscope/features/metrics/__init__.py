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
from fisherscope.features.metrics.raw import SketchSettings
from fisherscope.features.metrics.registry import make_metric, metric_names

__all__ = [
    "FisherMetric",
    "RunPass",
    "SketchSettings",
    "fit_metrics",
    "load_metric",
    "make_metric",
    "metric_fingerprint",
    "metric_names",
    "save_metric",
    "update_metrics",
]
