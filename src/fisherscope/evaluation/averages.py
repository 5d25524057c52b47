"""AUROC averaged over pairs of sets, with intervals.

Every pair is resampled by the same seed: pairs that share their in-distribution or their OOD samples are then resampled
alike, and the average of their replicates has the right spread. Samples that are in-distribution in one pair and OOD in
another are not tied together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.evaluation.bootstrap import Bootstrap, Interval, bootstrap_metrics
from fisherscope.evaluation.compare import Comparison, from_replicates
from fisherscope.evaluation.metrics import Scores, auroc
from fisherscope.evaluation.records import PairScores


def average_auroc(
    pairs: Sequence[PairScores], detector: str, *, seed: int, replicates: int = 1000, coverage: float = 0.95
) -> Interval:
    """Return the mean AUROC of a detector over pairs with its bootstrap interval.

    Args:
        pairs: scores of each pair; of one group size, or the mean means little.
        detector: its name.
        seed: of the resampling, see :class:`Bootstrap`.
        replicates: number of resamples.
        coverage: of the interval.
    """
    estimate, samples = _mean(pairs, detector, seed, replicates)
    return Interval(estimate, *Bootstrap(seed, replicates, coverage).interval(samples))


def compare_averages(
    pairs: Sequence[PairScores], a: str, b: str, *, seed: int, replicates: int = 1000, coverage: float = 0.95
) -> Comparison:
    """Return the paired comparison of two detectors' mean AUROC; arguments as :func:`average_auroc`."""
    mean_a, samples_a = _mean(pairs, a, seed, replicates)
    mean_b, samples_b = _mean(pairs, b, seed, replicates)
    return from_replicates(mean_a, mean_b, samples_a - samples_b, Bootstrap(seed, replicates, coverage))


def _mean(pairs: Sequence[PairScores], detector: str, seed: int, replicates: int) -> tuple[float, Scores]:
    """Return the mean AUROC and the mean of every replicate, shape (replicates,)."""
    if not pairs:
        raise DataError(f"there is no pair of sets to average {detector} over; give at least one")
    scores = [(pair.scores_in[detector], pair.scores_out[detector]) for pair in pairs]
    samples = [
        bootstrap_metrics(*s, Bootstrap(seed, replicates, clusters_in=p.clusters_in, clusters_out=p.clusters_out))
        for s, p in zip(scores, pairs, strict=True)
    ]
    return float(np.mean([auroc(*s) for s in scores])), np.mean([s["auroc"] for s in samples], axis=0)
