"""Histograms of log f_l of chosen, random or all layers, with the normal fitted to the in-distribution fit part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from pydantic import Field
from scipy.stats import skew

from fisherscope.config import Strict
from fisherscope.pipeline.reproduce.cases import case_json, case_stem, case_title, grid_tables, histogram_json, summary
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.layers import LayerFeatures, choose_layers, layer_features
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.histograms import HistogramPanel, histogram_panels
from fisherscope.report.text_table import TextCell

PAGE: Final = 20
"""Panels of a figure, at most."""


class Options(Strict):
    """Settings of this runner.

    Attributes:
        n_statistics: so many layers of each model, at random; None for all.
        layers: names of parameter tensors to show instead.
        fitted_distribution: whether the fitted normal is drawn.
    """

    n_statistics: int | None = Field(default=None, ge=1)
    layers: tuple[str, ...] = ()
    fitted_distribution: bool = False


def run(context: Context, options: Options) -> Outcome:
    """Draw the layers of every model at every group size."""
    figures, captions, models, further = {}, {}, [], list[str]()
    for features in layer_features(context):
        places = choose_layers(features.layers, options.layers, options.n_statistics, context.settings.seed)
        panels = [_panel(features, place, options.fitted_distribution) for place in places]
        stem = f"{case_stem(features.case)}-{features.case.in_dist}-b{features.group_size}"
        for page, start in enumerate(range(0, len(panels), PAGE), 1):
            name = stem if len(panels) <= PAGE else f"{stem}-p{page}"
            further += [name] if page > 1 else []
            shown = panels[start : start + PAGE]
            figures[name] = histogram_panels(shown, _label(features), columns=2 if len(panels) <= 6 else 4)
            captions[name] = _caption(
                features, len(places), range(start, start + len(shown)), options.fitted_distribution
            )
        models.append(_model_json(features, places))
    tables = grid_tables(models, _cells)
    captions |= dict.fromkeys(tables, _TABLE_CAPTION)
    return Outcome(
        {"models": models}, _note(models), figures=figures, tables=tables, captions=captions, off_page=tuple(further)
    )


def _panel(features: LayerFeatures, place: int, fitted: bool) -> HistogramPanel:
    values = {name: logs[:, place] for name, logs in features.log_norms.items()}
    normal = (float(features.mean[place]), float(features.deviation[place])) if fitted else None
    return HistogramPanel(features.layers[place], values, features.in_dist, normal)


def _label(features: LayerFeatures) -> str:
    unit = "nats" if features.group_size == 1 else f"nats, B = {features.group_size}"
    return f"log squared gradient norm, log f$_l$ ({unit})"


def _model_json(features: LayerFeatures, places: Sequence[int]) -> dict[str, Any]:
    in_test = features.log_norms[features.in_dist]
    standard = (in_test - features.mean) / features.deviation
    return {
        **case_json(features.case),
        "group_size": features.group_size,
        "layers_in_all": len(features.layers),
        "median_shift": {n: float(np.median(z.mean(0))) for n, z in features.standardised.items()},
        "share_above": {n: float((z.mean(0) > 0).mean()) for n, z in features.standardised.items()},
        "median_skewness": float(np.median(skew(standard, axis=0))),
        "layers": [_layer_json(features, place) for place in places],
    }


def _layer_json(features: LayerFeatures, place: int) -> dict[str, Any]:
    values = {name: logs[:, place] for name, logs in features.log_norms.items()}
    return {
        "layer": features.layers[place],
        "mean": float(features.mean[place]),
        "deviation": float(features.deviation[place]),
        "sets": {name: summary(v) for name, v in values.items()},
        "histogram": histogram_json(values, features.in_dist),
    }


def _caption(features: LayerFeatures, count: int, shown: range, fitted: bool) -> str:
    which = "all" if count == len(features.layers) else f"{count} of the {len(features.layers)}"
    if len(shown) < count:
        which = f"{shown.start + 1} to {shown.stop} of the {count}"
    curve = " Line: the normal fitted to the in-distribution fit part." if fitted else ""
    return (
        f"log f_l, groups of {features.group_size}, {which} parameter tensors of {case_title(features.case)}. Filled: "
        f"held-out images of the model's own set.{curve}"
    )


def _cells(model: Mapping[str, Any]) -> dict[str, TextCell]:
    """Return what the table says of a model, by set."""
    return {
        name: TextCell(f"{shift:+.2f}", f"({100 * model['share_above'][name]:.0f} %)")
        for name, shift in model["median_shift"].items()
    }


_TABLE_CAPTION: Final = (
    "Mean log f_l of a set minus the fitted mean, in fitted standard deviations, median over all layers (positive: "
    "larger gradients than in-distribution), and the share of layers where it is positive."
)


def _note(models: Sequence[dict[str, Any]]) -> str:
    """Say how normal the layers are in-distribution, and on which side of them other sets lie."""
    skewness = [m["median_skewness"] for m in models]
    shifts = [shift for m in models for shift in list(m["median_shift"].values())[1:]]
    return (
        f"In-distribution skewness of log f_l, median over the layers: {min(skewness):+.2f} to {max(skewness):+.2f} "
        f"over the models (0 for a normal). Other sets: larger gradients than in-distribution in the median layer in "
        f"{sum(shift > 0 for shift in shifts)} of {len(shifts)} combinations of a model and a set."
    )
