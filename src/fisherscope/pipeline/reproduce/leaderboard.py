"""Every detector on every model and pair, with differences to the paper's method and ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
from pydantic import Field
from scipy.stats import rankdata

from fisherscope.config import Strict
from fisherscope.core.errors import SettingError
from fisherscope.detectors import make_detector
from fisherscope.evaluation import ResampledPair, average, compare
from fisherscope.pipeline.reproduce.boards import SHOWN, is_ranked, make_board
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.grouped import Group, comparisons, group_cases
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.pipeline.reproduce.scores import score_case

_LARGE: Final = "layer_sketch"
"""Gigabytes, where all other blocks together are megabytes."""


class Options(Strict):
    """Settings of this runner.

    Attributes:
        reference: the detector that all are compared with.
        many_pass: detectors that need many passes over the model; B = 1 only.
        many_pass_limit: samples a set for those; twice as many of the in-distribution one.
        many_pass_in_dist: in-distribution sets whose models are given to those; empty: all.
        largest: the most numbers in a sample that a detector is given; with more it is skipped by name.
    """

    reference: str = "layerwise-gaussian"
    many_pass: tuple[str, ...] = ()
    many_pass_limit: int = Field(default=200, ge=1)
    many_pass_in_dist: tuple[str, ...] = ()
    largest: dict[str, int] = Field(default_factory=dict)


def run(context: Context, options: Options) -> Outcome:
    """Score every detector on every case."""
    if options.reference not in context.experiment.detectors:
        raise SettingError(f"the reference {options.reference} is not among the detectors; add it")
    cases = [case for case in context.cases if case.out_dists]
    groups = group_cases((case, _one_pass(context, case)) for case in cases)
    if not groups:
        raise NothingLeftError(f"nothing is left to score: {context.skipped_text() or 'no model has another set'}")
    singles = 1 in context.experiment.group_sizes  # all that detectors of many passes are given
    dear = group_cases((case, _many_pass(context, case, options)) for case in cases) if singles else []
    lines = [line for group in groups for line in _lines(group, options, many_pass=False)]
    slow = [line for group in dear for line in _lines(group, options, many_pass=True)]
    lines += [line for line in slow if line["detector"] != options.reference]
    results = {
        "records": [
            {**record, "limit": limit}
            for part, limit in ((groups, context.experiment.limit), (dear, options.many_pass_limit))
            for group in part
            for record in group.records()
        ],
        "lines": lines,
        "comparisons": [c for group in (*groups, *dear) for c in comparisons(group, options.reference)],
    }
    few = (
        "Below the line, without a rank: detectors that only some of the models serve, whose means are over fewer "
        f"pairs, and those of many passes, which were given {options.many_pass_limit} images a set, B = 1 only; their "
        "differences are on the same pairs and samples."
    )
    board = make_board(groups, lines, few)
    return Outcome(
        results,
        _note(lines, options),
        figures=board.figures,
        tables=board.tables,
        captions=board.captions,
        details=tuple(stem for stem in board.tables if stem.endswith("-pairs")),
    )


def _one_pass(context: Context, case: Case) -> list[ResampledPair]:
    """Score the detectors of one pass; all features but the sketches of every layer are kept and shared."""
    parts = []
    for keep in (True, False):
        detectors = [name for name in context.experiment.detectors if keep != _is_large(name)]
        parts.append(score_case(context, case, detectors=detectors, keep_tables=keep) if detectors else [])
    return merge(parts)


def _is_large(detector: str) -> bool:
    return any(block.partition(":")[0] == _LARGE for block in make_detector(detector).requires)


def merge(parts: Sequence[Sequence[ResampledPair]]) -> list[ResampledPair]:
    """Return pairs with the detectors of all parts, which scored the same samples in the same order."""
    merged: dict[tuple[str, str, int], ResampledPair] = {}
    for pair in (pair for part in parts for pair in part):
        key = (pair.in_dist, pair.out_dist, pair.group_size)
        old = merged.get(key, pair)
        merged[key] = replace(
            old, estimates={**old.estimates, **pair.estimates}, replicates={**old.replicates, **pair.replicates}
        )
    return list(merged.values())


def _many_pass(context: Context, case: Case, options: Options) -> list[ResampledPair]:
    """Score the detectors of many passes that the model can serve, and on the same samples the reference."""
    if options.many_pass_in_dist and case.in_dist not in options.many_pass_in_dist:
        only = f"given to models of {', '.join(options.many_pass_in_dist)} alone; --set many_pass_in_dist=[] for all"
        context.skip(f"detectors of many passes of {case.name}", only)
        return []
    numbers = math.prod(context.target(case).data_shape or ())
    chosen = []
    for detector in options.many_pass:
        if numbers > options.largest.get(detector, numbers):
            context.skip(f"{detector} of {case.name}", f"too slow for samples of {numbers:,} numbers")
        else:
            chosen.append(detector)
    few: dict[str, Any] = {"group_sizes": (1,), "limit": options.many_pass_limit}
    pairs = score_case(context, case, detectors=chosen, **few) if chosen else []
    if not pairs:  # the reference is of use only beside them
        return []
    return merge([score_case(context, case, detectors=(options.reference,), **few), pairs])


def _lines(group: Group, options: Options, *, many_pass: bool) -> Iterator[dict[str, Any]]:
    """Yield what the table says of each detector."""
    ranks = _ranks(group)
    if any(options.reference not in pair.estimates for pair in group.pairs):
        raise SettingError(f"the reference {options.reference} cannot serve every {group.label} model; choose another")
    for detector in group.detectors:
        pairs = group.having(detector)
        yield {
            **group.place,
            "detector": detector,
            "many_pass": many_pass,
            "limit": options.many_pass_limit if many_pass else None,
            "pairs": len(pairs),
            "every_pair": group.has_all(detector),
            **{metric: asdict(average(pairs, detector, metric)) for metric in SHOWN},
            "rank": ranks.get(detector),
            "difference": asdict(compare(pairs, detector, options.reference).difference),
        }


def _ranks(group: Group) -> dict[str, float]:
    """Return the mean rank by AUROC of every detector that all pairs have, 1 the best; ties share their mean rank."""
    ranks: dict[str, list[float]] = {d: [] for d in group.detectors if group.has_all(d)}
    for pair in group.pairs:
        found = rankdata([-pair.estimates[detector]["auroc"] for detector in ranks])
        for detector, rank in zip(ranks, found, strict=True):
            ranks[detector].append(float(rank))
    return {detector: float(np.mean(values)) for detector, values in ranks.items()}


def _note(lines: Sequence[dict[str, Any]], options: Options) -> str:
    """Name the best detector of every family, grid and group size, and the place of the paper's."""
    sentences = []
    for key in dict.fromkeys((line["grid"], line["model"], line["group_size"]) for line in lines):
        own = [line for line in lines if (line["grid"], line["model"], line["group_size"]) == key]
        own = list(filter(is_ranked, own))
        own.sort(key=lambda line: -line["auroc"]["estimate"])
        place = [line["detector"] for line in own].index(options.reference) + 1
        clearly = sum(line["difference"]["low"] > 0 for line in own)
        sentences.append(
            f"{key[1]}, {key[0]} sets, B = {key[2]}: {own[0]['detector']} leads with a mean AUROC of "
            f"{own[0]['auroc']['estimate']:.3f}; {options.reference} is number {place} of {len(own)} with "
            f"{own[place - 1]['auroc']['estimate']:.3f}, {clearly} are clearly better."
        )
    return " ".join(sentences)
