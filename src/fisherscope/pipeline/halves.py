"""In-distribution data in two parts, one for the detector to learn from and one to calibrate it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from fisherscope.core.keys import KeyArray
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.conformal import cluster_bound, groups_needed
from fisherscope.evaluation import cluster_sizes, join_equal, random_parts
from fisherscope.pipeline.batches import Batches

_LOG = logging.getLogger(__name__)

DataT = TypeVar("DataT", Batches, FeatureTable)


@dataclass(frozen=True)
class Halves(Generic[DataT]):
    """Two random parts, about equal, of which no cluster has samples in both.

    Attributes:
        ordered: the samples of whole groups, or the groups, of the first part and then of the second.
        n_fit: how many groups the first has, which the detector learns from.
        clusters: how many samples of the second each cluster has, equal ones being one; None where all are
            independent.
    """

    ordered: DataT
    n_fit: int
    clusters: tuple[int, ...] | None


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
    return Halves(ordered, len(learning) // group_size, _sizes(labels, data.keys[held]))


def table_halves(table: FeatureTable, first: int, least: tuple[int, int], seed: int) -> Halves[FeatureTable]:
    """Cut a table into about ``first`` random groups and the others.

    Groups that share a sample are not torn apart: then the cut is the nearest one that leaves each part ``least``.
    """
    within, clusters = (least[0], len(table) - least[1]), join_equal(None, table.keys)
    learning, held = random_parts(len(table), [first], np.random.default_rng(seed), clusters, within=within)
    return Halves(table.select(np.concatenate([learning, held])), len(learning), _sizes(None, table.keys[held]))


def warn_of_few_clusters(clusters: tuple[int, ...] | None, fpr: float) -> None:
    """Log a warning where samples of new clusters may raise more than twice the false alarms that are wanted."""
    if clusters is not None and (bound := cluster_bound(clusters, fpr)) > 2 * fpr:
        _LOG.warning(
            "fisherscope: the calibration samples come from %d clusters of %d to %d samples, by which new clusters may "
            "raise false alarms at a mean rate of %.3g, not of %g; that takes at least %d clusters, of equal "
            "size: give samples of more clusters, fewer equal ones, or a larger fpr",
            len(clusters),
            min(clusters),
            max(clusters),
            bound,
            fpr,
            groups_needed(fpr),
        )


def _sizes(labels: tuple[str, ...] | None, keys: KeyArray) -> tuple[int, ...] | None:
    sizes = cluster_sizes(labels, keys)
    return None if labels is None and max(sizes) == 1 else sizes
