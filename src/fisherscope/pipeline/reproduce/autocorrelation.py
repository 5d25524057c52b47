"""Correlation of log f_l between layers as a function of their distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fisherscope.config import Strict
from fisherscope.pipeline.reproduce.cases import case_json, case_stem, family_title, number_table
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.layers import LayerFeatures, layer_features
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.layers import LEAST_PAIRS, MOST_BANDS, CorrelationCurve, correlation_figure
from fisherscope.report.text_table import TextTable


def run(context: Context, options: Strict) -> Outcome:
    """Correlate the layers of every model over the in-distribution groups of the fit and test part together."""
    curves: dict[str, list[tuple[LayerFeatures, CorrelationCurve]]] = {}
    models = []
    for features in layer_features(context):
        values = np.concatenate([features.fit, features.log_norms[features.in_dist]])
        correlations = np.corrcoef(values.T)
        curve = correlation_curve(correlations, features.positions)
        curves.setdefault(f"{case_stem(features.case)}-b{features.group_size}", []).append((features, curve))
        models.append(_model_json(features, correlations, curve))
    figures = {stem: _figure(rows) for stem, rows in curves.items()}
    captions = {stem: _caption(rows[0][0]) for stem, rows in curves.items()}
    captions["models"] = (
        "Correlation of log f_l: mean over all pairs of layers, the same in absolute value, of neighbours, and of "
        "pairs more than half the model apart."
    )
    return Outcome(
        {"models": models}, _note(models), figures=figures, tables={"models": _table(models)}, captions=captions
    )


def correlation_curve(correlations: NDArray[np.float64], positions: NDArray[np.intp]) -> CorrelationCurve:
    """Return mean and 10 % and 90 % quantiles of the correlations of layers that are d apart, for every d there is.

    Args:
        correlations: (L, L).
        positions: numbers of the L layers among all parameter tensors; d counts the tensors from one to the other.
    """
    first, second = np.triu_indices(len(positions), 1)
    distance, pairs = np.abs(positions[first] - positions[second]), correlations[first, second]
    rows = []
    for d in np.unique(distance):
        here = pairs[distance == d]
        rows.append((d, len(here), here.mean(), *np.quantile(here, [0.1, 0.9])))
    columns = np.array(rows).T
    return CorrelationCurve(columns[0].astype(int), columns[1].astype(int), *columns[2:])


def _figure(rows: Sequence[tuple[LayerFeatures, CorrelationCurve]]) -> Any:
    count = min(sum(f.independent) for f, _ in rows)
    return correlation_figure({f.in_dist: curve for f, curve in rows}, _standard_error(count))


def _standard_error(count: int) -> float:
    """Standard error of one correlation of independent normals over so many groups."""
    return 1 / math.sqrt(count - 1)


def _model_json(features: LayerFeatures, correlations: NDArray[np.float64], curve: CorrelationCurve) -> dict[str, Any]:
    pairs = correlations[np.triu_indices(len(correlations), 1)]
    return {
        **case_json(features.case),
        "group_size": features.group_size,
        "groups": len(features.fit) + len(features.log_norms[features.in_dist]),
        "independent": sum(features.independent),
        "layers": len(features.layers),
        "standard_error": _standard_error(sum(features.independent)),
        "mean": float(pairs.mean()),
        "mean_absolute": float(np.abs(pairs).mean()),
        "curve": {
            "distance": curve.distance.tolist(),
            "pairs": curve.pairs.tolist(),
            "mean": curve.mean.tolist(),
            "low": curve.low.tolist(),
            "high": curve.high.tolist(),
        },
    }


def _caption(features: LayerFeatures) -> str:
    return (
        f"Correlation of log f_l of two parameter tensors of a {features.case.family} model over in-distribution "
        f"groups of {features.group_size}, against the number of tensors from one to the other. Lines: mean of all "
        f"pairs at that distance; coloured, for at most {MOST_BANDS} models: their 10 % to 90 % quantiles; grey: two "
        "standard errors of the correlation of one independent pair (a mean of many lies closer to 0), of the model "
        "with the fewest independent samples, clusters counted once. Distances of fewer than "
        f"{LEAST_PAIRS} pairs are left out."
    )


def _table(models: Sequence[dict[str, Any]]) -> TextTable:
    columns = {
        "all pairs": [m["mean"] for m in models],
        "in absolute value": [m["mean_absolute"] for m in models],
        "neighbours": [m["curve"]["mean"][0] for m in models],
        "far apart": [_far(m["curve"]) for m in models],
    }
    return number_table(models, {name: [f"{value:+.2f}" for value in values] for name, values in columns.items()})


def _note(models: Sequence[dict[str, Any]]) -> str:
    """Say how strongly layers are correlated, by kind of model."""
    said = []
    for family in dict.fromkeys(m["family"] for m in models):
        own = [m["mean"] for m in models if m["family"] == family]
        said.append(f"{family_title(family)} {min(own):+.2f} to {max(own):+.2f}")
    return (
        f"Mean correlation of log f_l over all pairs of layers: {', '.join(said)}. Independent layers would have 0, in "
        f"absolute value about {models[0]['standard_error'] * math.sqrt(2 / math.pi):.2f}."
    )


def _far(curve: dict[str, list[float]]) -> float:
    """Mean correlation of pairs more than half the largest distance apart."""
    distance, pairs = np.array(curve["distance"]), np.array(curve["pairs"])
    far = distance > distance.max() / 2
    return float(np.average(np.array(curve["mean"])[far], weights=pairs[far]))
