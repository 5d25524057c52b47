"""log f_l of a case, with the normals that the paper's detector fits to it: what the figures about layers show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import SettingError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.layerwise_gaussian import LayerwiseGaussian
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError
from fisherscope.pipeline.reproduce.context import Context

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LayerFeatures:
    """The features of one model at one group size.

    Attributes:
        case: the model and its sets.
        group_size: B.
        layers: names of the L parameter tensors whose f_l varies, in the model's order.
        positions: their numbers among all parameter tensors, (L,).
        fit: log f_l of the fit groups, (n, L).
        log_norms: log f_l by set, the in-distribution test part first, (n, L) each.
        mean: of the normals fitted to the fit part, (L,).
        deviation: their standard deviations, (L,).
        independent: how many independent samples the fit and the test part count for: their groups, or fewer if those
            come from fewer clusters, such as tracks of video.
    """

    case: Case
    group_size: int
    layers: tuple[str, ...]
    positions: NDArray[np.intp]
    fit: Array
    log_norms: Mapping[str, Array]
    mean: Array
    deviation: Array
    independent: tuple[int, int]

    @property
    def in_dist(self) -> str:
        """Name of the in-distribution set."""
        return next(iter(self.log_norms))

    @property
    def standardised(self) -> dict[str, Array]:
        """(log f_l - m_l) / d_l by set, (n, L) each."""
        return {name: (values - self.mean) / self.deviation for name, values in self.log_norms.items()}


def layer_features(context: Context) -> Iterator[LayerFeatures]:
    """Yield the features of every case that has other sets, at every group size; their tables are cached.

    Raises:
        NothingLeftError: no case has another set.
    """
    cases = [case for case in context.cases if case.out_dists]
    if not cases:
        raise NothingLeftError("every model has only its own set; name others with --datasets, or give the data root")
    for case in cases:
        target = context.target(case)
        done = context.evaluate(case, detectors=(LayerwiseGaussian.name,), target=target)
        in_dist = context.in_dist(case, target)
        for size, group in done.groups.items():
            detector = group.detectors[LayerwiseGaussian.name]
            assert isinstance(detector, LayerwiseGaussian)
            names = group.parts["fit"].columns["grad_norm"]
            tables = {done.protocol.in_dist: group.parts["test"], **group.out}
            yield LayerFeatures(
                case=case,
                group_size=size,
                layers=tuple(names[i] for i in detector.kept_),
                positions=detector.kept_,
                fit=detector.log_norms(group.parts["fit"]),
                log_norms={name: detector.log_norms(table) for name, table in tables.items()},
                mean=detector.mean_,
                deviation=detector.std_,
                independent=(_independent(in_dist, group.parts["fit"]), _independent(in_dist, group.parts["test"])),
            )


def _independent(data: Batches, table: FeatureTable) -> int:
    """Return the number of groups of a table, or of the clusters that its samples come from if those are fewer."""
    if (clusters := data.joined_clusters) is None:
        return len(table)
    cluster = dict(zip(data.ids, clusters, strict=True))
    return min(len(table), len({cluster[name] for ids in table.ids for name in ids}))


def dependence(features: LayerFeatures) -> str:
    """Return what a caption adds where samples depend on each other, or nothing."""
    groups = (len(features.fit), len(features.log_norms[features.in_dist]))
    if features.independent == groups:
        return ""
    clusters = " and ".join(f"{n:,}" for n in features.independent)
    return f" (its fit and test samples come from {clusters} clusters, which are counted)"


def choose_layers(names: Sequence[str], chosen: Sequence[str], count: int | None, seed: int) -> list[int]:
    """Return the places of the layers to show, in the model's order.

    Args:
        names: of the layers there are.
        chosen: names wanted; those that this model does not have are left out.
        count: where none is chosen, so many at random; None for all.
        seed: of that choice.

    Raises:
        SettingError: none of the chosen ones is there.
    """
    if chosen:
        places = [i for i, name in enumerate(names) if name in chosen]
        if not places:
            raise SettingError(f"the model has none of the layers {', '.join(chosen)}; it has {', '.join(names)}")
        return places
    if count is None or count >= len(names):
        return list(range(len(names)))
    return sorted(int(i) for i in np.random.default_rng(seed).choice(len(names), count, replace=False))
