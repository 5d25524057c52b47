"""The grid of the study: every detector on every model and pair of sets, scores kept between runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.data import load_samples
from fisherscope.evaluation import PairScores, ResampledPair, resample_pair
from fisherscope.models.base import load_model
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.pipeline.target import Target

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
DETECTORS = (PAPER, *RIVALS, "dose-svm", *CANDIDATES)
OF_FAMILY = {"glow": (), "vae": (), "diffusion": ("msma", "diffpath-6d", "scoped")}
"""Rivals for one family alone, as cheap as the rest."""


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


def run_grid(settings: Settings) -> tuple[list[Case], list[str]]:
    """Return the cases of all models that are there, and the names of those that are not."""
    cases: list[Case] = []
    missing = []
    for family in FAMILIES:
        for sets in (GREY, COLOUR):
            for in_dist in sets:
                name = f"{family}-{in_dist}"
                if not (settings.zoo / name / "model.json").is_file():
                    missing.append(name)
                    continue
                cases += _model_cases(name, family, in_dist, [s for s in sets if s != in_dist], settings)
    return cases, missing


def _model_cases(name: str, family: str, in_dist: str, outs: list[str], settings: Settings) -> list[Case]:
    target = Target(load_model(settings.zoo / name), None, name)
    detectors = (*DETECTORS, *OF_FAMILY[family])
    said = [target.fingerprint(), in_dist, outs, detectors, settings.limit, settings.seed]
    digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()
    path = settings.work / "scores" / f"{name}-{digest}.safetensors"
    if not path.exists():
        write_arrays(path, *_packed(_evaluate(target, in_dist, outs, detectors, settings)))
    pairs = _unpacked(*read_arrays(path))
    return [Case(family, resample_pair(pair, seed=settings.seed, replicates=REPLICATES)) for pair in pairs]


def _evaluate(
    target: Target, in_dist: str, outs: list[str], detectors: tuple[str, ...], settings: Settings
) -> list[PairScores]:
    evaluation = evaluate(
        target,
        samples(in_dist, target, settings, 2 * settings.limit),
        [samples(out, target, settings, settings.limit) for out in outs],
        EvaluationSettings(
            detectors=detectors,
            group_sizes=(1, 5),
            seed=settings.seed,
            replicates=1,  # the records are not used: means over pairs are resampled from the scores
            tables=settings.work / "tables",
        ),
        report=lambda what, done, total: print(f"\r{target.name}: {what} {done}/{total}    ", end="", flush=True),
    )
    print()
    return [pair for group in evaluation.groups.values() for pair in group.pairs.values()]


def samples(name: str, target: Target, settings: Settings, limit: int) -> Batches:
    """Return test samples of a set in the model's shape."""
    loaded = load_samples(name, split="test", data_root=settings.data_root, limit=limit, seed=settings.seed)
    return as_batches(loaded, target)


def _packed(pairs: list[PairScores]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    arrays: dict[str, Any] = {}
    cards = []
    for i, pair in enumerate(pairs):
        for side, scores in (("in", pair.scores_in), ("out", pair.scores_out)):
            arrays |= {f"{i}/{side}/{detector}": values for detector, values in scores.items()}
        cards.append(
            {
                "in_dist": pair.in_dist.partition("[")[0],
                "out_dist": pair.out_dist.partition("[")[0],
                "group_size": pair.group_size,
                "clusters_in": None if pair.clusters_in is None else list(pair.clusters_in),
                "clusters_out": None if pair.clusters_out is None else list(pair.clusters_out),
            }
        )
    return arrays, cards


def _unpacked(arrays: dict[str, Any], cards: list[dict[str, Any]]) -> Iterator[PairScores]:
    for i, card in enumerate(cards):
        sides = {
            side: {k.removeprefix(f"{i}/{side}/"): v for k, v in arrays.items() if k.startswith(f"{i}/{side}/")}
            for side in ("in", "out")
        }
        yield PairScores(scores_in=sides["in"], scores_out=sides["out"], **card)
