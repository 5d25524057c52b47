"""Histograms of bits/dim of every set under the model of each set: where others are more likely than its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fisherscope.evaluation import auroc
from fisherscope.pipeline.reproduce.case import Case
from fisherscope.pipeline.reproduce.cases import (
    bits_per_dim,
    by_stem,
    case_json,
    case_title,
    histogram_json,
    model_name,
    summary,
)
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.histograms import HistogramPanel, histogram_panels


class Options(BaseModel):
    """Settings of this runner; it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def run(context: Context, options: Options) -> Outcome:
    """Measure every set under every model."""
    bits = {case: _bits(context, case) for case in context.cases}
    figures, captions = {}, {}
    for stem, cases in by_stem(bits).items():
        panels = [HistogramPanel(case_title(case), bits[case], next(iter(bits[case]))) for case in cases]
        figures[stem] = histogram_panels(panels, _label(cases[0]))
        captions[stem] = _caption(cases[0])
    models = [_model_json(case, values) for case, values in bits.items()]
    return Outcome({"models": models}, _note(models), figures=figures, captions=captions)


def _bits(context: Context, case: Case) -> dict[str, NDArray[np.float64]]:
    """Return bits/dim by set, the in-distribution one first."""
    target = context.target(case)
    values = {}
    for name in (case.in_dist, *case.out_dists):
        data = context.batches(name, target)
        values[data.name] = bits_per_dim(context.table(target, data, ("log_p",)), target.data_shape)
    return values


def _model_json(case: Case, bits: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    in_dist = next(iter(bits))
    sets = {name: summary(values) for name, values in bits.items()}
    for name in (name for name in bits if name != in_dist):
        sets[name]["more_likely"] = 1 - auroc(bits[in_dist], bits[name])
    return {**case_json(case), "sets": sets, "histogram": histogram_json(bits, in_dist)}


def _label(case: Case) -> str:
    if case.timestep is None:
        return "bits per dimension (← more likely)"
    return f"bits per dimension of the bound's term T = {case.timestep} (← more likely)"


def _caption(case: Case) -> str:
    what = "−log₂ p" if case.timestep is None else f"The term T = {case.timestep} of the bound of −log₂ p"
    return (
        f"{what} per dimension of test images of every set under the {case.family} model of each set. Filled: the set "
        "that the model was trained on. A set to the left of it is more likely than what the model has learnt."
    )


def _note(models: Sequence[dict[str, Any]]) -> str:
    """Say for which models another set is more likely than their own."""
    sentences = []
    for model in models:
        more = {
            s.partition("[")[0]: v["more_likely"] for s, v in model["sets"].items() if v.get("more_likely", 0) > 0.5
        }
        others = len(model["sets"]) - 1
        said = ", ".join(f"{s} ({100 * share:.0f} %)" for s, share in sorted(more.items(), key=lambda pair: -pair[1]))
        sentences.append(f"{model_name(model)}: {said or 'none'} of {others}.")
    return (
        "Sets more likely than the model's own test set, with the chance that a random image of it is more likely than "
        f"a random test image. {' '.join(sentences)}"
    )
