"""The grid of the study: every detector on every model and pair of sets, scores kept between runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fisherscope.config import ExperimentConfig, GridTable
from fisherscope.evaluation import ResampledPair
from fisherscope.pipeline.reproduce.case import RunSettings
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.scores import score_case

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

METRICS = ("whitened", "equalised")
CANDIDATES = (
    "fisher-dose",
    "gradient-dose",
    "complexity-dose",
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
DETECTORS = (PAPER, *RIVALS, "dose-svm", *CANDIDATES, *OF_DIFFUSION)
"""Those that a model cannot serve are left out for it."""


@dataclass(frozen=True)
class Settings:
    """How the grid is run.

    Attributes:
        zoo: folder of the models, each FAMILY-SET.
        work: folder for feature tables and scores.
        data_root: folder of named sets.
        limit: OOD samples a set; twice as many are taken in-distribution (half fit, a quarter calibrate and test).
        seed: of split, groups, noise and bootstrap.
    """

    zoo: Path
    work: Path
    data_root: str | None
    limit: int
    seed: int = 0


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


def run_grid(settings: Settings) -> tuple[list[Case], list[str]]:
    """Return the cases of all models that are there, and the names of those that are not."""
    context = grid_context(settings, "Every detector on every model and pair of sets.", DETECTORS)
    cases = [
        Case(case.family, without_splits(pair))
        for case in sorted(context.cases, key=lambda case: FAMILIES.index(case.family))
        for pair in score_case(context, case)
    ]
    models = [f"{family}-{name}" for family in FAMILIES for name in (*GREY, *COLOUR)]
    return cases, [name for name in models if f"model {name}" in context.ledger.skipped]


def print_progress(what: str, done: int, total: int) -> None:
    """Print how far the extraction is, in one line."""
    print(f"\r{what} {done}/{total}    ", end="" if done < total else "\n", flush=True)


def without_splits(pair: ResampledPair) -> ResampledPair:
    """Return the pair under the names of its sets alone."""
    return replace(pair, in_dist=pair.in_dist.partition("[")[0], out_dist=pair.out_dist.partition("[")[0])
