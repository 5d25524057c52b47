"""Histograms of bits/dim of every set under the model of each set: where others are more likely than its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from fisherscope.evaluation import auroc
from fisherscope.pipeline.reproduce.cases import (
    bits_per_dim,
    by_stem,
    case_json,
    case_title,
    histogram_json,
    model_name,
    summary,
)
from fisherscope.pipeline.reproduce.context import Case, Context
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.report.histograms import HistogramPanel, histogram_panels


class Options(BaseModel):
    """Settings of this runner; it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def run(context: Context, options: Options) -> Outcome:
    """Measure every set under every model."""
    panels = {case: _panel(context, case) for case in context.cases}
    figures, captions = {}, {}
    for stem, cases in by_stem(panels).items():
        figures[stem] = histogram_panels([panels[case] for case in cases], _label(cases[0]))
        captions[stem] = _caption(cases[0])
    models = [_model_json(case, panel) for case, panel in panels.items()]
    return Outcome({"models": models}, _note(models), figures=figures, captions=captions)


def _panel(context: Context, case: Case) -> HistogramPanel:
    target = context.target(case)
    values = {}
    for name in (case.in_dist, *case.out_dists):
        data = context.batches(name, target)
        values[data.name] = bits_per_dim(context.table(target, data, ("log_p",)), target.data_shape)
    return HistogramPanel(case_title(case), values, next(iter(values)))


def _model_json(case: Case, panel: HistogramPanel) -> dict[str, Any]:
    own = panel.values[panel.in_dist]
    sets = {
        name: {**summary(values), "more_likely": 1 - auroc(own, values)} if name != panel.in_dist else summary(values)
        for name, values in panel.values.items()
    }
    return {**case_json(case), "sets": sets, "histogram": histogram_json(panel.values, panel.in_dist)}


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
