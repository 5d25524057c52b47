"""Scores of a model's sets with their resamples, kept in a file: the second run of an experiment takes seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fisherscope.core.errors import DataError
from fisherscope.core.package_code import own_code
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.detectors import make_detector
from fisherscope.evaluation import METRICS, Bootstrap, ResampledPair, resample_pair
from fisherscope.features.companions import BACKGROUND, Companion
from fisherscope.features.metrics import make_metric
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.cache import SCORES, cache_file
from fisherscope.pipeline.companions import as_companions
from fisherscope.pipeline.evaluation import Scored, score_sets, unserved
from fisherscope.pipeline.extraction import metrics_in
from fisherscope.pipeline.reproduce.case import Case
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.target import Target, load_target


@dataclass(frozen=True)
class ScoreRequest:
    """What to score.

    Attributes:
        name: of the model, for progress and protocol.
        target: the model.
        in_dist: cut into fit, calibration and test parts.
        out_dists: the other sets.
        detectors: names; those that need another kind of model are skipped by name.
        group_sizes: every B.
        companions: further models.
        keep_tables: whether features are cached too; sketches of every layer take gigabytes.
    """

    name: str
    target: Target
    in_dist: Batches
    out_dists: tuple[Batches, ...]
    detectors: tuple[str, ...]
    group_sizes: tuple[int, ...]
    companions: tuple[Companion, ...] = ()
    keep_tables: bool = True


def score_case(
    context: Context,
    case: Case,
    *,
    detectors: Sequence[str] | None = None,
    group_sizes: Sequence[int] | None = None,
    limit: int | None = None,
    keep_tables: bool = True,
) -> list[ResampledPair]:
    """Score a case's sets; see :func:`score`.

    Args:
        context: the run.
        case: model and sets.
        detectors: by default the experiment's.
        group_sizes: by default the experiment's.
        limit: samples a set, by default the experiment's; twice as many of the in-distribution one.
        keep_tables: see :class:`ScoreRequest`.
    """
    target = context.target(case)
    request = ScoreRequest(
        name=case.name,
        target=target,
        in_dist=context.in_dist(case, target, limit=limit),
        out_dists=tuple(context.batches(name, target, limit=limit) for name in case.out_dists),
        detectors=tuple(detectors or context.experiment.detectors),
        group_sizes=tuple(group_sizes or context.experiment.group_sizes),
        companions=case_companions(context, case, target),
        keep_tables=keep_tables,
    )
    return score(context, request)


def case_companions(context: Context, case: Case, target: Target) -> tuple[Companion, ...]:
    """Return the further models of a case that are there: ``MODEL-seed1`` ... and ``MODEL-background``."""
    folders = sorted(p for p in context.models.glob(f"{case.model}-*") if (p / "model.json").is_file())
    names = {path: path.name.removeprefix(f"{case.model}-") for path in folders}
    chosen = {name: path for path, name in names.items() if name == BACKGROUND or name.startswith("seed")}
    device = context.settings.device
    return as_companions({name: load_target(path, device=device) for name, path in chosen.items()}, target)


def score(context: Context, request: ScoreRequest) -> list[ResampledPair]:
    """Return every pair at every group size, from the file of an earlier run if there is one; none if no detector fits.

    The file's name depends on model, samples, detectors, settings, and the code and libraries behind the numbers.
    """
    path = cache_file(context.settings.tables, f"scores-{_digest(context, request)}", SCORES)
    kept = _kept(path)
    if kept is None:
        _write(path, *_compute(context, request))
    pairs, card = kept or _read(path)
    for what, why in card["skipped"].items():
        context.skip(what, why)
    context.ledger.protocols += [card["protocol"]] if pairs else []
    return pairs


def _kept(path: Path) -> tuple[list[ResampledPair], dict[str, Any]] | None:
    """Return what a file of scores holds; None where there is none, or a damaged one."""
    try:
        return _read(path) if path.is_file() else None
    except DataError:
        return None


def _compute(context: Context, request: ScoreRequest) -> tuple[list[ResampledPair], dict[str, Any]]:
    settings = context.settings
    how = context.evaluation_settings(
        request.detectors, request.group_sizes, keep_tables=request.keep_tables, companions=request.companions
    )
    refused = {name: reason for name, reason, _ in unserved(request.target, request.in_dist, how)}
    skipped = {f"{name} of {request.name}": reason for name, reason in refused.items()}
    served = tuple(name for name in request.detectors if name not in refused)
    if not served:
        return [], {"protocol": None, "skipped": skipped}
    done: Scored = score_sets(
        request.target,
        request.in_dist,
        request.out_dists,
        replace(how, detectors=served),
        report=context.progress(request.name),
    )
    pairs = [
        resample_pair(pair, seed=settings.seed, replicates=settings.replicates)
        for group in done.groups.values()
        for pair in group.pairs.values()
    ]
    return pairs, {"protocol": {"model": request.name, **done.protocol.to_json()}, "skipped": skipped}


def _digest(context: Context, request: ScoreRequest) -> str:
    settings = context.settings
    said = {
        "model": request.target.fingerprint(),
        "sets": [(d.name, d.fingerprint, d.form) for d in (request.in_dist, *request.out_dists)],
        "detectors": request.detectors,
        "group_sizes": request.group_sizes,
        "companions": {c.name: c.fingerprint() for c in request.companions},
        "own_code": own_code(request.target.module, request.target.log_prob, *_own_parts(request.detectors)),
        "seed": settings.seed,
        "replicates": settings.replicates,
    }
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=8).hexdigest()


def _own_parts(names: Iterable[str]) -> Iterable[object]:
    """Yield detectors, and the metrics that they read."""
    for name in names:
        detector = make_detector(name)
        yield detector
        yield from (make_metric(metric) for metric in metrics_in(detector.requires))


def _write(path: Path, pairs: Sequence[ResampledPair], card: Mapping[str, Any]) -> None:
    arrays = {
        f"{i}/{detector}/{metric}": pair.replicates[detector][metric]
        for i, pair in enumerate(pairs)
        for detector in pair.estimates
        for metric in METRICS
    }
    said = [
        {
            "in_dist": pair.in_dist,
            "out_dist": pair.out_dist,
            "group_size": pair.group_size,
            "n_in": pair.n_in,
            "n_out": pair.n_out,
            "estimates": pair.estimates,
            "bootstrap": {k: v for k, v in asdict(pair.bootstrap).items() if not k.startswith("clusters")},
        }
        for pair in pairs
    ]
    write_arrays(path, arrays, {**card, "pairs": said})


def _read(path: Path) -> tuple[list[ResampledPair], dict[str, Any]]:
    arrays, card = read_arrays(path)
    pairs = []
    for i, said in enumerate(card["pairs"]):
        replicates = {d: {m: arrays[f"{i}/{d}/{m}"] for m in METRICS} for d in said["estimates"]}
        pairs.append(ResampledPair(**{**said, "bootstrap": Bootstrap(**said["bootstrap"])}, replicates=replicates))
    return pairs, card
