"""The protocol: which in-distribution samples fit, calibrate and test, and a text that says so.

Samples are split first and grouped inside a part afterwards, so the parts hold the same samples for every group
size (up to the remainder that fills no group) and no group straddles two parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.evaluation.bootstrap import Clusters

Index = NDArray[np.intp]

FIT_SHARE = 0.5
CALIBRATION_SHARE = 0.25


@dataclass(frozen=True)
class Split:
    """Indices of the in-distribution samples of each part, disjoint, each a multiple of the group size long.

    Attributes:
        fit: what detectors are fitted on.
        calibration: what p-values and thresholds are calibrated on.
        test: what is scored and compared with the OOD samples.
    """

    fit: Index
    calibration: Index
    test: Index


def split_in_dist(
    n: int,
    group_size: int,
    seed: int,
    fit: float = FIT_SHARE,
    calibration: float = CALIBRATION_SHARE,
    clusters: Clusters | None = None,
) -> Split:
    """Split n in-distribution samples at random into fit, calibration and test (the rest).

    Args:
        n: number of samples, none of which the model was trained on.
        group_size: B; up to B - 1 samples of each part are left out.
        seed: of the shuffle.
        fit: share of the samples to fit on.
        calibration: share to calibrate on.
        clusters: a label for each sample; samples that share one stay in one part. See :func:`join_equal`.

    Raises:
        SettingError: group size or shares out of range.
        DataError: the group size exceeds the data, or a part comes out empty.
    """
    if not (fit > 0 and calibration > 0 and fit + calibration < 1):
        raise SettingError(f"shares are fit {fit} and calibration {calibration}, expected positive with a sum below 1")
    _check_groups(n, group_size)
    rng = np.random.default_rng([seed, 0])
    # 1e-9: 0.29 * 100 is 28.999... in floating point and means 29.
    cuts = [int(fit * n + 1e-9), int((fit + calibration) * n + 1e-9)]
    parts = [rng.permutation(part) for part in random_parts(n, cuts, rng, clusters)]
    parts = [part[: len(part) // group_size * group_size] for part in parts]
    for name, part in zip(("fit", "calibration", "test"), parts, strict=True):
        if len(part) == 0:
            found = "" if clusters is None else f" of {len(set(clusters))} clusters"
            advice = "more samples" if clusters is None else "samples of more clusters (equal samples are one cluster)"
            raise DataError(f"{n} samples{found} leave no group of {group_size} for the {name} part; give {advice}")
    return Split(*parts)


def random_parts(
    n: int,
    cuts: Sequence[int],
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    *,
    within: tuple[int, int] | None = None,
) -> list[Index]:
    """Shuffle n samples and cut them into parts; whole clusters are shuffled where there are any.

    Args:
        n: number of samples.
        cuts: where to cut, rising: one less than parts.
        rng: of the shuffle.
        clusters: a label for each sample; samples that share one stay in one part, next to each other. Each cut moves
            to the nearest place where the label changes.
        within: earliest and latest place where a cut may move to; None: anywhere.

    Returns:
        Indices of the samples of each part.

    Raises:
        DataError: there are too few clusters to cut between.
    """
    if clusters is None:
        return np.split(rng.permutation(n), cuts)
    order = _shuffle_clusters(n, clusters, rng)
    return np.split(order, _cluster_boundaries(np.asarray(clusters)[order], cuts, within or (1, n - 1)))


def join_equal(clusters: Clusters | None, keys: KeyArray) -> Clusters | None:
    """Return cluster labels by which equal samples are in one cluster, as one that fits must not calibrate or test too.

    Args:
        clusters: a label for each of n samples or groups, or None where they are independent.
        keys: of the samples (n,), or of the members of groups (n, B).

    Returns:
        Labels (n,): what shares a label or a key has one, and so has what is linked by others. Where equal samples
        change nothing, ``clusters`` as given.
    """
    n = len(keys)
    _, place = np.unique(keys, return_inverse=True)
    own = np.arange(n) if clusters is None else _numbered(n, clusters)
    count, size = int(own.max()) + 1, int(place.max()) + 1
    ends = np.repeat(own, keys.size // n), count + place.ravel()
    links = coo_array((np.ones(keys.size, dtype=np.int8), ends), shape=(count + size, count + size))
    joined, labels = connected_components(links, directed=False)
    found: NDArray[np.int32] = labels[own]
    return clusters if joined == count else found


def cluster_sizes(clusters: Clusters | None, keys: KeyArray) -> tuple[int, ...]:
    """Return how many of n samples or groups each cluster has, equal ones being one; arguments as :func:`join_equal`.

    The smallest cluster comes first.
    """
    labels = join_equal(clusters, keys)
    sizes = np.ones(len(keys), np.intp) if labels is None else np.unique(labels, return_counts=True)[1]
    return tuple(sorted(sizes.tolist()))


def group_indices(index: Index, group_size: int) -> Index:
    """Return the groups of consecutive indices, shape (len(index) // B, B); the remainder is left out."""
    _check_groups(len(index), group_size)
    groups = len(index) // group_size
    return index[: groups * group_size].reshape(groups, group_size)


def out_dist_groups(n: int, group_size: int, seed: int) -> Index:
    """Return random groups of n OOD samples, shape (n // B, B).

    Shuffled, since data sets are often stored class by class and a group of one class is not a typical one.
    """
    return group_indices(np.random.default_rng([seed, 1]).permutation(n), group_size)


def _check_groups(n: int, group_size: int) -> None:
    if group_size < 1:
        raise SettingError(f"group size is {group_size}, expected at least 1")
    if group_size > n:
        raise DataError(f"group size {group_size} is larger than the data ({n} samples); give more or smaller groups")


def _shuffle_clusters(n: int, clusters: Clusters, rng: np.random.Generator) -> Index:
    """Return an order of the samples in which clusters come one after another, in random order."""
    labels = _numbered(n, clusters)
    rank = rng.permutation(int(labels.max()) + 1)
    return np.argsort(rank[labels], kind="stable")


def _numbered(n: int, clusters: Clusters) -> Index:
    labels = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if labels.shape != (n,):
        raise DataError(f"{len(labels)} cluster labels were given for {n} samples; give one a sample")
    return labels


def _cluster_boundaries(ordered: NDArray[Any], cuts: Sequence[int], within: tuple[int, int]) -> list[int]:
    """Move each cut to the nearest place where the label changes."""
    first, last = within
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    allowed = changes[(changes >= first) & (changes <= last)]
    if len(allowed) < len(cuts):
        raise DataError(
            f"{len(changes) + 1} clusters of {len(ordered)} samples cannot be cut into {len(cuts) + 1} parts between "
            f"sample {first} and sample {last}; give samples of more clusters (equal samples are one cluster)"
        )
    return [int(allowed[np.abs(allowed - cut).argmin()]) for cut in cuts]


@dataclass(frozen=True)
class Protocol:
    """What was done with which samples; goes into every output.

    Attributes:
        in_dist: name of the in-distribution set.
        out_dists: names of the OOD sets.
        n_out: number of samples of each OOD set.
        n_fit: in-distribution samples to fit on, before the remainder of a group size is left out.
        n_calibration: to calibrate on, likewise.
        n_test: to test on, likewise.
        group_sizes: every B that was run.
        seed: of split, grouping, model noise and bootstrap.
        training_checked: whether the samples were compared with the hashes of the model's training samples.
        replicates: of the bootstrap.
        coverage: of the intervals.
        clustered: names of the sets with dependent samples, which were split and, where B = 1, resampled by cluster.
    """

    in_dist: str
    out_dists: tuple[str, ...]
    n_out: tuple[int, ...]
    n_fit: int
    n_calibration: int
    n_test: int
    group_sizes: tuple[int, ...]
    seed: int
    training_checked: bool
    replicates: int = 1000
    coverage: float = 0.95
    clustered: tuple[str, ...] = ()

    def statement(self) -> str:
        """Return the protocol in plain sentences."""
        total = self.n_fit + self.n_calibration + self.n_test
        outside = ", ".join(f"{name} ({n:,})" for name, n in zip(self.out_dists, self.n_out, strict=True))
        sentences = [
            f"In-distribution: {total:,} samples of {self.in_dist}, cut at random (seed {self.seed}) into "
            f"{self.n_fit:,} to fit the detectors, {self.n_calibration:,} to calibrate them and {self.n_test:,} to "
            "test; the parts are disjoint.",
            self._training(),
            f"Out-of-distribution (OOD): {outside}; used for the test only.",
            self._groups(),
            "Scores: higher means more novel. OOD is the positive class; FPR95 is the share of in-distribution "
            "groups flagged when 95 % of the OOD groups are.",
            f"Intervals: {100 * self.coverage:g} % percentile bootstrap, {self.replicates:,} resamples, in- and "
            "out-of-distribution drawn separately. They cover the draw of the test samples, not another training "
            "run or fit part.",
        ]
        if self.clustered:
            sentences.append(self._clusters())
        return " ".join(sentences)

    def _training(self) -> str:
        if self.training_checked:
            return "None of them is among the samples that the model was trained on (compared by hash)."
        return "Whether the model was trained on any of them was NOT checked (no hashes of its training, or not asked)."

    def _groups(self) -> str:
        if self.group_sizes == (1,):
            return "Every sample is judged by itself (B = 1)."
        sizes = " and ".join(str(b) for b in self.group_sizes)
        return (
            f"Group sizes B = {sizes}: groups are formed at random inside a part after the split, so none straddles "
            "two parts; samples that fill no group are left out."
        )

    def _clusters(self) -> str:
        names = ", ".join(self.clustered)
        done = "Split and resampled" if 1 in self.group_sizes else "Split"
        text = f"{done} by cluster (dependent or equal samples kept together): {names}."
        if max(self.group_sizes) > 1:
            text += " Groups of several samples are resampled as if independent, so their intervals are too narrow."
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the statement as JSON values."""
        return {**asdict(self), "statement": self.statement()}
