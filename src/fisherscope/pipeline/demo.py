"""The demo: a Glow trained from scratch on bundled images, and what its likelihood and its gradients say of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fisherscope.core.errors import SettingError
from fisherscope.data import load_samples
from fisherscope.models.base import load_model
from fisherscope.models.files import STATE
from fisherscope.models.training import Progress, TrainSettings
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import Evaluation, EvaluationSettings, ReportSteps, evaluate
from fisherscope.pipeline.report import write_evaluation_report
from fisherscope.pipeline.target import Target
from fisherscope.pipeline.training import train_on

IN_DIST: Final = "texture-patches"
# Chosen by the likelihood alone, before any gradient score was computed: it fails on the first two (a cat, and smooth
# surfaces: moon, cell, retina) and works on the third.
OUT_DISTS: Final = ("chelsea", "smooth-patches", "digits-16")
_LIMIT: Final = 600
_GLOW: Final = {"levels": 2, "steps": 4, "hidden": 32}


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        evaluation: all figures.
        page: the HTML report.
        model: folder of the trained Glow.
    """

    evaluation: Evaluation
    page: Path
    model: Path


def run_demo(
    out: str | Path,
    *,
    minutes: float = 0.7,
    seed: int = 0,
    command: str = "fisherscope demo",
    report_training: Callable[[Progress], None] | None = None,
    report_extraction: ReportSteps | None = None,
) -> Demo:
    """Train a small Glow on patches of brick, grass and gravel, evaluate it and write the report.

    Works offline: all images ship inside the scikit-learn and scikit-image wheels.

    Args:
        out: folder for the model (``model``) and the page (``report``); a model that is there already is used again.
        minutes: training time.
        seed: of training, split, noise and bootstrap.
        command: command line for the page.
        report_training: called after every training step.
        report_extraction: called with (what, samples done, samples in all).
    """
    out = Path(out)
    folder = out / "model"
    train = load_samples(f"{IN_DIST}[train]")
    if (folder / "model.json").is_file():
        model = load_model(folder)
        if model.data_shape != train.shape:
            raise SettingError(f"{folder} holds another model, not the demo's; choose another --out")
    else:
        settings = TrainSettings(minutes=minutes, seed=seed)
        model = train_on(
            "glow",
            train,
            settings,
            folder,
            config=_GLOW,
            resume=(folder / STATE).is_file(),
            command=command,
            report=report_training,
        )
    target = Target(model, None, f"glow of {IN_DIST}")
    sets = [as_batches(load_samples(name, seed=seed, limit=limit), target) for name, limit in _sets()]
    settings_ = EvaluationSettings(group_sizes=(1, 5), seed=seed, tables=out / "tables")
    evaluation = evaluate(target, sets[0], sets[1:], settings_, report=report_extraction)
    page = write_evaluation_report(evaluation, target, sets, out / "report", command)
    return Demo(evaluation, page, folder)


def _sets() -> list[tuple[str, int | None]]:
    return [(f"{IN_DIST}[test]", None), *((f"{name}[test]", _LIMIT) for name in OUT_DISTS)]
