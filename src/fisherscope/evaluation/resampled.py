"""Pairs of sets with all their bootstrap replicates, from which records, means over pairs and differences follow.

Every pair is resampled by the same seed: pairs that share their in-distribution or their OOD samples are resampled
alike, and the mean of their replicates has the right spread. Samples that are in-distribution in one pair and OOD in
another are not tied together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.evaluation.bootstrap import METRICS, Bootstrap, Interval, bootstrap_metrics
from fisherscope.evaluation.compare import Comparison, from_replicates
from fisherscope.evaluation.metrics import Scores
from fisherscope.evaluation.records import PairScores


@dataclass(frozen=True)
class ResampledPair:
    """Figures of every detector on one pair, and what the resampling made of them.

    Attributes:
        in_dist: name of the in-distribution set.
        out_dist: name of the OOD set.
        group_size: B.
        n_in: number of in-distribution test groups.
        n_out: number of OOD groups.
        bootstrap: how it was resampled.
        estimates: by detector and metric.
        replicates: by detector and metric, shape (R,).
    """

    in_dist: str
    out_dist: str
    group_size: int
    n_in: int
    n_out: int
    bootstrap: Bootstrap
    estimates: Mapping[str, Mapping[str, float]]
    replicates: Mapping[str, Mapping[str, Scores]]

    def interval(self, detector: str, metric: str = "auroc") -> Interval:
        """Return a metric of a detector with its percentile interval."""
        return Interval(self.estimates[detector][metric], *self.bootstrap.interval(self.replicates[detector][metric]))


def resample_pair(pair: PairScores, *, seed: int, replicates: int = 1000, coverage: float = 0.95) -> ResampledPair:
    """Return a pair with the replicates of every detector and metric; for the arguments see :class:`Bootstrap`."""
    bootstrap = Bootstrap(seed, replicates, coverage, pair.clusters_in, pair.clusters_out)
    scores = {name: (pair.scores_in[name], pair.scores_out[name]) for name in pair.scores_in}
    first = next(iter(scores.values()))
    return ResampledPair(
        pair.in_dist,
        pair.out_dist,
        pair.group_size,
        len(first[0]),
        len(first[1]),
        Bootstrap(seed, replicates, coverage),
        {name: {metric: function(*s) for metric, function in METRICS.items()} for name, s in scores.items()},
        {name: bootstrap_metrics(*s, bootstrap) for name, s in scores.items()},
    )


def average(pairs: Sequence[ResampledPair], detector: str, metric: str = "auroc") -> Interval:
    """Return the mean of a metric of a detector over pairs, with its interval.

    Raises:
        DataError: no pair, or pairs that were resampled differently.
    """
    estimate, samples = _mean(pairs, detector, metric)
    return Interval(estimate, *pairs[0].bootstrap.interval(samples))


def compare(pairs: Sequence[ResampledPair], a: str, b: str) -> Comparison:
    """Return the paired comparison of two detectors' mean AUROC over pairs; one pair is compared by itself."""
    mean_a, samples_a = _mean(pairs, a, "auroc")
    mean_b, samples_b = _mean(pairs, b, "auroc")
    return from_replicates(mean_a, mean_b, samples_a - samples_b, pairs[0].bootstrap)


def _mean(pairs: Sequence[ResampledPair], detector: str, metric: str) -> tuple[float, Scores]:
    """Return the mean of the estimates and the mean of every replicate, shape (R,)."""
    if not pairs or len({(p.bootstrap.seed, p.bootstrap.replicates, p.bootstrap.coverage) for p in pairs}) > 1:
        raise DataError(f"{detector} was to be averaged over {len(pairs)} pairs; give at least one, resampled alike")
    estimate = float(np.mean([p.estimates[detector][metric] for p in pairs]))
    return estimate, np.mean([p.replicates[detector][metric] for p in pairs], axis=0)
