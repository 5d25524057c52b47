"""In-distribution data in two parts, one for the detector to learn from and one to calibrate it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from fisherscope.core.keys import KeyArray
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.conformal import groups_needed
from fisherscope.evaluation import count_clusters, join_equal, random_parts
from fisherscope.pipeline.batches import Batches

_LOG = logging.getLogger(__name__)

DataT = TypeVar("DataT", Batches, FeatureTable)


@dataclass(frozen=True)
class Halves(Generic[DataT]):
    """Two random parts, about equal, of which no cluster has samples in both.

    Attributes:
        ordered: the samples of whole groups, or the groups, of the first part and then of the second.
        n_fit: how many groups the first has, which the detector learns from.
        calibration_keys: of the samples of the second.
        clusters: how many clusters those come from, equal samples being one; None where all are independent.
    """

    ordered: DataT
    n_fit: int
    calibration_keys: KeyArray
    clusters: int | None


def sample_halves(data: Batches, first: int, least: tuple[int, int], group_size: int, seed: int) -> Halves[Batches]:
    """Cut samples into a part of about ``first`` random groups and one of the others, whole groups.

    Clusters, and samples that are equal, are not torn apart: then the cut is the nearest one that leaves each part
    ``least`` groups.
    """
    rng, n, clusters = np.random.default_rng(seed), len(data), data.joined_clusters
    within = (least[0] * group_size, n - least[1] * group_size)
    parts = random_parts(n, [first * group_size], rng, clusters, within=within)
    if clusters is not None:
        parts = [rng.permutation(part) for part in parts]  # or a group of several samples would be one cluster's
    learning, held = (part[: len(part) // group_size * group_size] for part in parts)
    ordered = data.select(np.concatenate([learning, held]))
    labels = None if data.clusters is None else tuple(data.clusters[i] for i in held)
    return Halves(ordered, len(learning) // group_size, data.keys[held], _count(labels, data.keys[held]))


def table_halves(table: FeatureTable, first: int, least: tuple[int, int], seed: int) -> Halves[FeatureTable]:
    """Cut a table into about ``first`` random groups and the others.

    Groups that share a sample are not torn apart: then the cut is the nearest one that leaves each part ``least``.
    """
    within, clusters = (least[0], len(table) - least[1]), join_equal(None, table.keys)
    learning, held = random_parts(len(table), [first], np.random.default_rng(seed), clusters, within=within)
    keys = table.keys[held]
    return Halves(table.select(np.concatenate([learning, held])), len(learning), keys, _count(None, keys))


def warn_of_few_clusters(clusters: int | None, fpr: float) -> None:
    """Log a warning where fewer clusters calibrate than a false-alarm rate needs of independent samples."""
    needed = groups_needed(fpr)
    if clusters is not None and clusters < needed:
        _LOG.warning(
            "fisherscope: the calibration samples come from %d clusters; a false-alarm rate of %g on samples of new "
            "clusters takes at least %d: give samples of more clusters or a larger fpr",
            clusters,
            fpr,
            needed,
        )


def _count(labels: tuple[str, ...] | None, keys: KeyArray) -> int | None:
    count = count_clusters(labels, keys)
    return None if labels is None and count == len(keys) else count
