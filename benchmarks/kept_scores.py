"""Scores of the study that are kept beside the code, one file a model: to score them all takes hours.

A file holds AUROCs and their bootstrap replicates in steps of 1/65,535, and says what made them: model, samples and
seed, and by detector the versions and a hash of the package's code. It is used as long as model, samples and seed are
the same; scores of earlier code are used too, and the page says of which code. Detectors can be added: all of a model
are judged on the same resamples, whenever that was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fisherscope.core.errors import DataError
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
        made_by: by detector, the versions and the hash of the package's code, as JSON values. It has those too that
            the model does not serve, which are in no pair.
    """

    pairs: tuple[ResampledPair, ...]
    made_by: Mapping[str, Mapping[str, str]]


def made_by() -> dict[str, str]:
    """Return versions and the hash of the code that scores now."""
    return {**versions(), "code": code_digest(*SCORES)}


def keep(
    folder: Path, name: str, what: Mapping[str, Any], asked: Sequence[str], pairs: Sequence[ResampledPair]
) -> None:
    """Write the scores of a model, beside those of other detectors that its file holds already.

    Args:
        folder: of such files.
        name: of the model.
        what: all that the scores depend on beside detector, code and versions, as JSON values.
        asked: the detectors that were to be scored now.
        pairs: the scores of those that the model serves.
    """
    before = find(folder, name, what)
    by: dict[str, Mapping[str, str]] = {detector: made_by() for detector in asked}
    if before is not None:
        pairs = _joined(before.pairs, pairs, asked)
        by = {**before.made_by, **by}
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
    card = {"what": dict(what), "made_by": by, "pairs": said}
    write_arrays(folder / f"{name}.safetensors", arrays, card)


def find(folder: Path, name: str, what: Mapping[str, Any]) -> Kept | None:
    """Return the scores of a model if they are of the same model, samples and seed."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        return None
    arrays, card = read_arrays(path)
    if card["what"] != dict(what):
        return None
    return Kept(tuple(_pair(said, i, arrays) for i, said in enumerate(card["pairs"])), card["made_by"])


def _joined(before: Sequence[ResampledPair], now: Sequence[ResampledPair], asked: Sequence[str]) -> list[ResampledPair]:
    """Return the pairs with the scores of both, those of ``asked`` from now alone."""
    new = {_place(pair): pair for pair in now}
    if now and list(map(_place, before)) != list(new):
        raise DataError("the scores that are kept are of other pairs or numbers of samples; score all detectors anew")
    joined = []
    for old in before:
        added = new.get(_place(old))
        estimates = {d: v for d, v in old.estimates.items() if d not in asked}
        replicates = {d: v for d, v in old.replicates.items() if d not in asked}
        if added is not None:
            estimates, replicates = estimates | {**added.estimates}, replicates | {**added.replicates}
        joined.append(replace(old, estimates=estimates, replicates=replicates))
    return joined


def _place(pair: ResampledPair) -> tuple[str, str, int, int, int]:
    return pair.in_dist, pair.out_dist, pair.group_size, pair.n_in, pair.n_out


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
