"""The grid of the study: every detector on every model and pair of sets, scores kept between runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kept_scores import FOLDER, find, keep

from fisherscope.config import ExperimentConfig, GridTable
from fisherscope.evaluation import ResampledPair
from fisherscope.features.companions import BACKGROUND
from fisherscope.models.zoo import zoo_root
from fisherscope.pipeline.reproduce.case import Case as ModelCase
from fisherscope.pipeline.reproduce.case import RunSettings
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.scores import case_companions, score_case

FAMILIES = ("glow", "vae", "diffusion")
GREY = ("fashion_mnist", "mnist")
COLOUR = ("cifar10", "celeba", "gtsrb", "tiny_imagenet32")

DEVELOPMENT = (("fashion_mnist", "mnist"), ("mnist", "fashion_mnist"), ("cifar10", "gtsrb"), ("gtsrb", "cifar10"))
"""Pairs on which choices were made."""
SEEN = (("cifar10", "celeba"), ("cifar10", "tiny_imagenet32"))
"""Pairs that the first study had looked at."""

REPLICATES = 1000
PAPER = "layerwise-gaussian"
RIVALS = ("typicality", "likelihood", "input-complexity-png", "pixel-mahalanobis", "typicality-fisher", "dose-kde")
"""Named by the study's question; with ``dose-svm`` all of them run on every model."""

EXACT = "fisher-dose-exact"
"""The default on exact norms, which it estimates of convolution kernels, and on the whole gradient of VAEs and
diffusion models, of which it takes the terms one by one."""
METRICS = ("whitened", "equalised")
CANDIDATES = (
    "fisher-dose",
    "gradient-dose",
    "complexity-dose",
    EXACT,
    *(f"fisher-dose@{metric}" for metric in METRICS),
    "rao-sketch",
    "rao-sketch-uncentred",
    *(f"rao-sketch@{metric}" for metric in METRICS),
    *(
        f"layerwise-{density}"
        for density in (
            "upper",
            "fisher",
            "fisher-upper",
            "chi2",
            "chi2-upper",
            "chi2-size",
            "chi2-size-upper",
            "ledoit-wolf",
            "mixture",
            "kde",
            "svm",
            "forest",
            "normalised-sum",
        )
    ),
    "layerwise-gaussian@whitened",
    "layerwise-upper@whitened",
    "layerwise-mixture@whitened",
    "total-norm",
    "total-norm@whitened",
)
OF_DIFFUSION = ("msma", "diffpath-6d", "scoped")
OTHERS = ("dose-svm", "input-complexity-webp", "input-complexity-jpeg2000", "input-complexity-zlib", "waic")
DETECTORS = (PAPER, *RIVALS, *OTHERS, *CANDIDATES, *OF_DIFFUSION)
"""Those that a model cannot serve are left out for it; WAIC needs further seeds."""
WITH_BACKGROUND = ("likelihood-ratio",)
"""What a model with a model of the background is given beside them."""


@dataclass(frozen=True)
class Settings:
    """How the grid is run.

    Attributes:
        zoo: folder of the models, each FAMILY-SET.
        work: folder for feature tables and scores.
        data_root: folder of named sets.
        limit: OOD samples a set; twice as many are taken in-distribution (half fit, a quarter calibrate and test).
        seed: of split, groups, noise and bootstrap.
        kept: folder of the scores that are kept for good.
    """

    zoo: Path
    work: Path
    data_root: str | None
    limit: int
    seed: int = 0
    kept: Path = FOLDER


def study_parser(description: str | None, limit: int) -> argparse.ArgumentParser:
    """Return a parser of what every page of the study is told: where models, sets and tables lie, how many samples."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=zoo_root(), help="folder of models called FAMILY-SET")
    parser.add_argument("--data-root", default=os.environ.get("FISHERSCOPE_DATA"), help="folder of named sets")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="folder for feature tables and scores")
    parser.add_argument("--limit", type=int, default=limit, help="OOD samples a set; twice as many in-distribution")
    return parser


@dataclass(frozen=True)
class Case:
    """One model on one pair of sets at one group size, resampled; ``pair`` has the names without their split."""

    family: str
    pair: ResampledPair

    @property
    def sets(self) -> tuple[str, str]:
        """In- and out-of-distribution set."""
        return self.pair.in_dist, self.pair.out_dist

    @property
    def role(self) -> str:
        """``development``, ``seen`` or ``headline``."""
        if self.sets in DEVELOPMENT:
            return "development"
        return "seen" if self.sets in SEEN else "headline"


def grid_context(
    settings: Settings, makes: str, detectors: tuple[str, ...], colour: tuple[str, ...] = COLOUR
) -> Context:
    """Return the context of a run over the grey sets and some colour ones, each kind for itself."""
    experiment = ExperimentConfig(
        runner="study",
        makes=makes,
        minutes=600,
        grids=(
            GridTable(name="grey", families=FAMILIES, in_dist=GREY),
            GridTable(name="colour", families=FAMILIES, in_dist=colour),
        ),
        group_sizes=(1, 5),
        limit=settings.limit,
        detectors=detectors,
    )
    run = RunSettings(
        data_root=None if settings.data_root is None else Path(settings.data_root),
        models=settings.zoo,
        tables=settings.work / "tables",
        seed=settings.seed,
        replicates=REPLICATES,
    )
    return Context(experiment, run, print_progress)


@dataclass(frozen=True)
class Grid:
    """What a run of the study has.

    Attributes:
        cases: of all models that were scored, now or before.
        missing: names of the models that were not, each with the reason.
        made_by: by model and detector, the versions and the code that scored it.
    """

    cases: tuple[Case, ...]
    missing: Mapping[str, str]
    made_by: Mapping[str, Mapping[str, Mapping[str, str]]]


def run_grid(settings: Settings, models: Collection[str] | None = None, *, anew: Collection[str] | None = None) -> Grid:
    """Score what has no kept scores, keep them, and return all there are.

    Args:
        settings: of the grid.
        models: names of those that may be scored; all of the folder by default.
        anew: detectors to score although they have kept scores, all of them where it is empty.
    """
    context = grid_context(settings, "Every detector on every model and pair of sets.", DETECTORS)
    cases: list[Case] = []
    made_by: dict[str, Mapping[str, Mapping[str, str]]] = {}
    missing = {}
    for case in sorted(context.cases, key=lambda case: FAMILIES.index(case.family)):
        what, wanted = _what(context, case), _wanted(context, case)
        kept = find(settings.kept, case.model, what)
        known = set() if kept is None else set(kept.made_by)
        if anew is not None:
            known -= set(anew or wanted)
        asked = [name for name in wanted if name not in known]
        if asked and (models is None or case.model in models):
            pairs = [without_splits(pair) for pair in score_case(context, case, detectors=asked)]
            keep(settings.kept, case.model, what, asked, pairs)
            kept = find(settings.kept, case.model, what)
        if kept is None or not kept.made_by.keys() >= set(wanted):
            missing[case.model] = "not scored yet" if kept is None else "without scores of some detectors"
            continue
        made_by[case.model] = {name: kept.made_by[name] for name in wanted}
        cases += [Case(case.family, _of(pair, wanted)) for pair in kept.pairs]
    names = [f"{family}-{name}" for family in FAMILIES for name in (*GREY, *COLOUR)]
    absent = {name: "not in the zoo" for name in names if f"model {name}" in context.ledger.skipped}
    return Grid(tuple(cases), absent | missing, made_by)


def _wanted(context: Context, case: ModelCase) -> tuple[str, ...]:
    """Return the detectors that the study has for a model, those included that it cannot serve."""
    companions = {c.name for c in case_companions(context, case, context.target(case))}
    return (*context.experiment.detectors, *(WITH_BACKGROUND if BACKGROUND in companions else ()))


def _of(pair: ResampledPair, detectors: Sequence[str]) -> ResampledPair:
    """Return the pair with the scores of some detectors, in their order."""
    found = [name for name in detectors if name in pair.estimates]
    return replace(
        pair,
        estimates={name: pair.estimates[name] for name in found},
        replicates={name: pair.replicates[name] for name in found},
    )


def _what(context: Context, case: ModelCase) -> dict[str, Any]:
    """Return all that the scores of a model depend on beside detector, code and versions."""
    target = context.target(case)
    companions = {c.name: c.fingerprint() for c in case_companions(context, case, target)}
    sets = (context.in_dist(case, target), *(context.batches(name, target) for name in case.out_dists))
    return {
        "model": target.fingerprint(),
        "companions": companions,
        "sets": [[data.name, data.fingerprint] for data in sets],
        "group_sizes": list(context.experiment.group_sizes),
        "seed": context.settings.seed,
        "replicates": context.settings.replicates,
    }


def print_progress(what: str, done: int, total: int) -> None:
    """Print how far the extraction is, in one line."""
    print(f"\r{what} {done}/{total}    ", end="" if done < total else "\n", flush=True)


def without_splits(pair: ResampledPair) -> ResampledPair:
    """Return the pair under the names of its sets alone."""
    return replace(pair, in_dist=pair.in_dist.partition("[")[0], out_dist=pair.out_dist.partition("[")[0])
