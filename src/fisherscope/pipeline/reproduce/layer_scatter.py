"""Two layers against each other with marginal histograms, and the layers' standardised deviations ("pulls")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy.stats import norm

from fisherscope.config import Strict
from fisherscope.core.errors import SettingError
from fisherscope.pipeline.reproduce.cases import case_json, case_stem, case_title, further_models, grid_tables
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.layers import LayerFeatures, choose_layers, dependence, layer_features
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.layers import PULL_EDGES, pull_figure, pull_histogram
from fisherscope.report.scatter import layer_scatter
from fisherscope.report.text_table import TextCell


class Options(Strict):
    """Settings of this runner.

    Attributes:
        layers: names of the two parameter tensors of the scatter plot; none for two at random.
    """

    layers: tuple[str, ...] = ()


def run(context: Context, options: Options) -> Outcome:
    """Draw both figures of every model at every group size.

    The pull of layer l is (log f_l - m_l) / d_l, m_l and d_l from the fit part: standard normal in-distribution if the
    normals fit, so that the score of the paper is, up to a constant, half the sum of the squared pulls.
    """
    figures, captions, models = {}, {}, []
    for features in layer_features(context):
        stem = f"{case_stem(features.case)}-{features.case.in_dist}-b{features.group_size}"
        pair = _pair(features, options, context.settings.seed)
        values = {name: logs[:, pair] for name, logs in features.log_norms.items()}
        names = (features.layers[pair[0]], features.layers[pair[1]])
        unit = "nats" if features.group_size == 1 else f"nats, B = {features.group_size}"
        figures[f"{stem}-scatter"] = layer_scatter(values, features.in_dist, names, unit)
        captions[f"{stem}-scatter"] = _scatter_caption(features)
        figures[f"{stem}-pull"] = pull_figure(
            features.standardised, features.in_dist, features.positions, _standard_error(features)
        )
        captions[f"{stem}-pull"] = _pull_caption(features)
        models.append(_model_json(features, pair))
    off_page = further_models(list(figures))
    tables = grid_tables(models, _cells)
    captions |= dict.fromkeys(tables, _TABLE_CAPTION)
    return Outcome(
        {"models": models}, _note(models), figures=figures, tables=tables, captions=captions, off_page=off_page
    )


def _pair(features: LayerFeatures, options: Options, seed: int) -> list[int]:
    pair = choose_layers(features.layers, options.layers, 2, seed)
    if len(pair) != 2:
        raise SettingError(
            f"{features.case.model} has {len(pair)} of the layers {', '.join(options.layers)}, expected two of them; "
            f"it has {', '.join(features.layers)}"
        )
    return pair


def _standard_error(features: LayerFeatures) -> float:
    """Standard error of the mean pull of the test part: its own, and that of the mean that was fitted."""
    fit, test = features.independent
    return math.sqrt(1 / test + 1 / fit)


def _model_json(features: LayerFeatures, pair: Sequence[int]) -> dict[str, Any]:
    scatter = {name: logs[:, pair] for name, logs in features.log_norms.items()}
    pulls = {
        name: {
            "mean": float(z.mean()),
            "deviation": float(z.std()),
            "beyond_3": float((np.abs(z) > 3).mean()),
            "layer_means": z.mean(0).tolist(),
            "percent": pull_histogram(z).tolist(),
        }
        for name, z in features.standardised.items()
    }
    return {
        **case_json(features.case),
        "group_size": features.group_size,
        "layers": list(features.layers),
        "positions": features.positions.tolist(),
        "scatter": {
            "layers": [features.layers[i] for i in pair],
            "points": {name: points.round(4).tolist() for name, points in scatter.items()},
            "correlation": {
                name: float(np.corrcoef(points[:, 0], points[:, 1])[0, 1]) for name, points in scatter.items()
            },
        },
        "pull_edges": PULL_EDGES.tolist(),
        "standard_error": _standard_error(features),
        "pulls": pulls,
    }


def _scatter_caption(features: LayerFeatures) -> str:
    return (
        f"log f_l of two parameter tensors of {case_title(features.case)}, one point a group of {features.group_size}, "
        "with the histogram of each along its axis."
    )


def _pull_caption(features: LayerFeatures) -> str:
    return (
        f"Pulls of the {len(features.layers)} parameter tensors of {case_title(features.case)}, groups of "
        f"{features.group_size}: deviation of log f_l from the fitted mean in fitted standard deviations. Left: of all "
        "tensors and groups; what lies beyond ± 6 counts in the outermost bins. Right: mean of each tensor; grey: two "
        f"standard errors of the in-distribution mean{dependence(features)}."
    )


def _cells(model: Mapping[str, Any]) -> dict[str, TextCell]:
    """Return what the table says of a model, by set."""
    return {
        name: TextCell(f"{p['mean']:+.2f} ± {p['deviation']:.2f}", f"({100 * p['beyond_3']:.1f} %)")
        for name, p in model["pulls"].items()
    }


_TABLE_CAPTION: Final = (
    "Mean and standard deviation of the pulls of all layers and groups, and the share beyond three standard "
    f"deviations, which is {200 * norm.sf(3):.1f} % of a normal."
)


def _note(models: Sequence[dict[str, Any]]) -> str:
    """Say how wide the pulls of the models' own sets are, and on which side of them other sets lie."""
    own = [next(iter(m["pulls"].values())) for m in models]
    others = [p for m in models for p in list(m["pulls"].values())[1:]]
    larger = sum(p["mean"] > 0 for p in others)
    return (
        f"Held-out images of a model's own set: the deviation of the pulls is {min(p['deviation'] for p in own):.2f} "
        f"to {max(p['deviation'] for p in own):.2f} (1 if the normals fit), "
        f"{100 * min(p['beyond_3'] for p in own):.1f} to {100 * max(p['beyond_3'] for p in own):.1f} % lie beyond "
        "three. Other sets: the mean pull is positive, their gradients larger, in "
        f"{larger} of {len(others)} combinations of a model and a set."
    )
