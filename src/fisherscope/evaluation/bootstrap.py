"""Bootstrap intervals of all metrics at once.

In- and out-of-distribution samples are resampled separately (their numbers are set by the protocol, not by
chance). A resample is a row of counts, so one sort of the scores serves every replicate: each metric is a sum over
the distinct scores of cumulated counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.settings import require_whole
from fisherscope.evaluation.metrics import (
    TARGET_TPR,
    Scores,
    aupr_in,
    aupr_out,
    auroc,
    check_scores,
    fpr_at_tpr,
)

Clusters = Sequence[str] | NDArray[Any]
Counts = NDArray[np.int64]

METRICS: Final = {"auroc": auroc, "aupr": aupr_out, "aupr_in": aupr_in, "fpr95": fpr_at_tpr}
"""Every metric by the name it has in a record; all take (scores_in, scores_out)."""

_CHUNK_ELEMENTS: Final = 1 << 18  # counts in flight: a few such matrices fit in the cache of one core


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval; ``f"{interval:.3f}"`` is ``0.812 [0.790, 0.833]``.

    Attributes:
        estimate: the metric on the samples themselves.
        low: lower end.
        high: upper end.
    """

    estimate: float
    low: float
    high: float

    def ends(self, spec: str) -> str:
        """Return both ends in brackets, each formatted as ``spec`` says."""
        return f"[{self.low:{spec}}, {self.high:{spec}}]"

    def __format__(self, spec: str) -> str:
        """Return the estimate and, in brackets, both ends, each formatted as ``spec`` says."""
        return f"{self.estimate:{spec}} {self.ends(spec)}" if spec else str(self)


def require_replicates(value: Any, coverage: float = 0.95) -> int:
    """Return a number of resamples as an int; a :class:`SettingError` where none would lie beyond an interval's end."""
    return require_whole("replicates", value, math.ceil(round(2 / (1 - coverage), 9)))


@dataclass(frozen=True)
class Bootstrap:
    """How test samples are resampled.

    Attributes:
        seed: of the resampling.
        replicates: number of resamples R.
        coverage: nominal coverage of the intervals.
        clusters_in: a label for each in-distribution sample; samples that share one are drawn together.
        clusters_out: the same for the OOD samples (frames of one track, patches of one photograph).
    """

    seed: int
    replicates: int = 1000
    coverage: float = 0.95
    clusters_in: Clusters | None = None
    clusters_out: Clusters | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.coverage < 1:
            raise SettingError(f"coverage is {self.coverage}, expected a share in (0, 1)")
        require_replicates(self.replicates, self.coverage)

    def interval(self, replicates: Scores) -> tuple[float, float]:
        """Return the equal-tailed percentile interval of replicates, shape (R,) (Efron 1979)."""
        tail = (1 - self.coverage) / 2
        low, high = np.quantile(replicates, [tail, 1 - tail])
        return float(low), float(high)


def metric_intervals(scores_in: ArrayLike, scores_out: ArrayLike, bootstrap: Bootstrap) -> dict[str, Interval]:
    """Return every metric of :data:`METRICS` with its stratified percentile bootstrap interval.

    The interval covers the draw of the test samples; it does not cover another training run or fit split. A
    perfect separation has the interval [1, 1]: no resample of separated samples overlaps.

    Args:
        scores_in: in-distribution scores, shape (n_in,).
        scores_out: OOD scores, shape (n_out,).
        bootstrap: how to resample.

    Raises:
        DataError: fewer than two samples or clusters on a side, or scores that are not finite.
    """
    samples = bootstrap_metrics(scores_in, scores_out, bootstrap)
    return {
        name: Interval(metric(scores_in, scores_out), *bootstrap.interval(samples[name]))
        for name, metric in METRICS.items()
    }


def bootstrap_metrics(scores_in: ArrayLike, scores_out: ArrayLike, bootstrap: Bootstrap) -> dict[str, Scores]:
    """Return every metric on each resample, shape (R,) by name.

    The resamples depend on ``bootstrap`` and the numbers of samples only: two detectors scored on the same samples
    are resampled alike, which is what a paired comparison needs.
    """
    inside, outside = check_scores(scores_in, "in-distribution"), check_scores(scores_out, "out-of-distribution")
    units_in, units_out = _units(len(inside), bootstrap.clusters_in), _units(len(outside), bootstrap.clusters_out)
    rows = max(1, _CHUNK_ELEMENTS // (len(inside) + len(outside)))
    chunks = zip(
        _resamples(units_in, bootstrap.replicates, rows, np.random.default_rng([bootstrap.seed, 0])),
        _resamples(units_out, bootstrap.replicates, rows, np.random.default_rng([bootstrap.seed, 1])),
        strict=True,
    )
    parts = [resampled_metrics(inside, outside, counts_in, counts_out) for counts_in, counts_out in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


def _units(n: int, clusters: Clusters | None) -> NDArray[np.intp]:
    """Return the number of the resampling unit of every sample, shape (n,): itself or its cluster."""
    units = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if units.shape != (n,):
        raise DataError(f"{len(units)} cluster labels were given for {n} scores; give one a score")
    if units.max() < 1:
        raise DataError(f"a bootstrap interval needs at least two samples or clusters, found one ({n} scores)")
    return units


def _resamples(units: NDArray[np.intp], replicates: int, rows: int, rng: np.random.Generator) -> Iterator[Counts]:
    """Yield how often every sample is drawn, as matrices of at most ``rows`` replicates, shape (rows, n)."""
    k = int(units.max()) + 1
    for start in range(0, replicates, rows):
        r = min(rows, replicates - start)
        drawn = rng.integers(k, size=(r, k)) + k * np.arange(r)[:, None]
        yield np.bincount(drawn.ravel(), minlength=r * k).reshape(r, k)[:, units]


def resampled_metrics(
    scores_in: Scores, scores_out: Scores, counts_in: Counts, counts_out: Counts
) -> dict[str, Scores]:
    """Return every metric when sample i counts ``counts[r, i]`` times.

    Args:
        scores_in: shape (n_in,).
        scores_out: shape (n_out,).
        counts_in: shape (R, n_in), with a positive sum in each row.
        counts_out: shape (R, n_out), likewise.

    Returns:
        Arrays (R,) by metric name; row r equals the metric on ``np.repeat(scores, counts[r])``.
    """
    distinct = np.unique(np.concatenate([scores_in, scores_out]))[::-1]
    inside = _count_by_score(scores_in, counts_in, distinct)
    outside = _count_by_score(scores_out, counts_out, distinct)
    # Column j of a cumulated matrix: how many samples a threshold at the j-th highest score flags.
    flagged_in, flagged_out = inside.cumsum(axis=1), outside.cumsum(axis=1)
    n_in, n_out = flagged_in[:, -1:], flagged_out[:, -1:]
    kept_in, kept_out = n_in - flagged_in, n_out - flagged_out
    wins = (outside * (kept_in + inside / 2)).sum(axis=1)
    first = np.argmax(flagged_out / n_out >= TARGET_TPR, axis=1)[:, None]
    return {
        "auroc": wins / (n_in * n_out)[:, 0],
        "aupr": _average_precision(outside, flagged_out, flagged_in),
        "aupr_in": _average_precision(inside, kept_in + inside, kept_out + outside),
        "fpr95": (np.take_along_axis(flagged_in, first, axis=1) / n_in)[:, 0],
    }


def _count_by_score(scores: Scores, counts: Counts, distinct: Scores) -> Scores:
    """Return the counts summed over equal scores, shape (R, len(distinct)); ``distinct`` descends."""
    order = np.argsort(-scores, kind="stable")
    values, starts = np.unique(-scores[order], return_index=True)
    summed = np.zeros((len(counts), len(distinct)))
    summed[:, np.searchsorted(-distinct, values)] = np.add.reduceat(counts[:, order], starts, axis=1)
    return summed


def _average_precision(step: Scores, true_positive: Scores, false_positive: Scores) -> Scores:
    """Return sum over thresholds of (recall step) x precision, shape (R,); all arguments are (R, thresholds)."""
    flagged = true_positive + false_positive
    # Where nothing is flagged the step is 0 as well: any divisor will do.
    precision = true_positive / np.maximum(flagged, 1)
    return np.asarray((step * precision).sum(axis=1) / step.sum(axis=1))
