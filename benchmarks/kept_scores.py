"""Scores of the study that are kept beside the code, one file a model: to score them all takes hours.

A file holds AUROCs and their bootstrap replicates in steps of 1/65,535, and says what made them: model, samples,
detectors, seed, versions and a hash of the package's code. It is used as long as model, samples, detectors and seed are
the same; scores of earlier code are used too, and the page says of which code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fisherscope.core.package_code import code_digest
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.evaluation import Bootstrap, ResampledPair
from fisherscope.pipeline.cache import SCORES
from fisherscope.pipeline.versions import versions

FOLDER = Path(__file__).parent / "scores"

_STEPS = 65535


@dataclass(frozen=True)
class Kept:
    """Scores of one model.

    Attributes:
        pairs: every pair at every group size, with the AUROC alone.
        made_by: versions and the hash of the package's code, as JSON values.
    """

    pairs: tuple[ResampledPair, ...]
    made_by: Mapping[str, str]


def made_by() -> dict[str, str]:
    """Return versions and the hash of the code that scores now."""
    return {**versions(), "code": code_digest(*SCORES)}


def keep(folder: Path, name: str, what: Mapping[str, Any], pairs: Sequence[ResampledPair]) -> None:
    """Write the scores of a model.

    Args:
        folder: of such files.
        name: of the model.
        what: all that the scores depend on beside code and versions, as JSON values.
        pairs: the scores.
    """
    arrays = {
        f"{i}/{detector}": np.round(pair.replicates[detector]["auroc"] * _STEPS).astype(np.uint16)
        for i, pair in enumerate(pairs)
        for detector in pair.estimates
    }
    said = [
        {
            "in_dist": pair.in_dist,
            "out_dist": pair.out_dist,
            "group_size": pair.group_size,
            "n_in": pair.n_in,
            "n_out": pair.n_out,
            "seed": pair.bootstrap.seed,
            "coverage": pair.bootstrap.coverage,
            "auroc": {detector: metrics["auroc"] for detector, metrics in pair.estimates.items()},
        }
        for pair in pairs
    ]
    card = {"what": dict(what), "made_by": made_by(), "pairs": said}
    write_arrays(folder / f"{name}.safetensors", arrays, card)


def find(folder: Path, name: str, what: Mapping[str, Any]) -> Kept | None:
    """Return the scores of a model if they are of the same model, samples, detectors and seed."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        return None
    arrays, card = read_arrays(path)
    if card["what"] != dict(what):
        return None
    return Kept(tuple(_pair(said, i, arrays) for i, said in enumerate(card["pairs"])), card["made_by"])


def _pair(said: Mapping[str, Any], i: int, arrays: Mapping[str, Any]) -> ResampledPair:
    replicates = {d: arrays[f"{i}/{d}"].astype(np.float64) / _STEPS for d in said["auroc"]}
    n = len(next(iter(replicates.values())))
    return ResampledPair(
        said["in_dist"],
        said["out_dist"],
        said["group_size"],
        said["n_in"],
        said["n_out"],
        Bootstrap(said["seed"], n, said["coverage"]),
        {d: {"auroc": auroc} for d, auroc in said["auroc"].items()},
        {d: {"auroc": r} for d, r in replicates.items()},
    )
