"""The evaluation: one model, one in-distribution set, several OOD sets, several detectors and group sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from fisherscope.core.errors import DataError, FisherscopeError, ModelError, SettingError
from fisherscope.core.keys import among
from fisherscope.core.settings import require_whole
from fisherscope.core.table import FeatureTable
from fisherscope.detectors import STANDARD_DETECTORS as STANDARD_DETECTORS
from fisherscope.detectors import ConformalCalibration, Detector, make_detector
from fisherscope.detectors.base import Scores
from fisherscope.detectors.conformal import groups_needed, require_fpr
from fisherscope.evaluation import (
    PairScores,
    Protocol,
    Record,
    evaluate_pair,
    out_dist_groups,
)
from fisherscope.evaluation.bootstrap import Clusters, require_replicates
from fisherscope.features.companions import Companion
from fisherscope.features.metrics import FisherMetric, make_metric
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.companions import require_held_out
from fisherscope.pipeline.extraction import (
    DEFAULT_BLOCKS,
    ExtractSettings,
    ReportProgress,
    extract_table,
    fit_metrics_on,
    metrics_in,
)
from fisherscope.pipeline.kept_tables import kept_table
from fisherscope.pipeline.target import Target

_EVERY_MODEL: Final = frozenset(
    {*DEFAULT_BLOCKS, "log_p", "sketch_norm", "grad_norm", "pixels", "codec_bytes", "statistics"}
    | {"sketch", "layer_sketch"}
)

_LOG = logging.getLogger(__name__)

ReportSteps = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """What to run.

    Attributes:
        detectors: names, see :func:`fisherscope.detectors.make_detector`.
        group_sizes: every B to judge groups of.
        seed: of split, grouping, model noise and bootstrap.
        fpr_level: false-alarm rate at which false alarms are counted.
        replicates: of the bootstrap.
        max_memory: bytes that one gradient pass may use, or None.
        tables: folder where feature tables are kept and found again as long as the code is the same, or None.
        allow_training_samples: evaluate even on samples that the model was trained on.
        companions: further models, for the detectors that need them.
    """

    detectors: tuple[str, ...] = STANDARD_DETECTORS
    group_sizes: tuple[int, ...] = (1,)
    seed: int = 0
    fpr_level: float = 0.05
    replicates: int = 1000
    max_memory: int | None = None
    tables: Path | None = None
    allow_training_samples: bool = False
    companions: tuple[Companion, ...] = ()

    def __post_init__(self) -> None:
        """Check ranges, and that names are known and unique, before anything is computed."""
        object.__setattr__(self, "group_sizes", tuple(require_whole("group_size", b, 1) for b in self.group_sizes))
        object.__setattr__(self, "seed", require_whole("seed", self.seed, 0))
        object.__setattr__(self, "fpr_level", require_fpr(self.fpr_level, "fpr_level"))
        object.__setattr__(self, "replicates", require_replicates(self.replicates))
        given: object = self.detectors
        if not isinstance(given, (tuple, list)) or not all(isinstance(name, str) for name in given):
            raise SettingError(
                f"detectors are {given!r}, expected a tuple of names; one of your own is called package.module:Class"
            )
        for what, values in (("detectors", self.detectors), ("group sizes", self.group_sizes)):
            if not values or len(set(values)) != len(values):
                raise SettingError(f"{what} are {list(values)}, expected at least one and none twice")
        for name in metrics_in(self.blocks):
            make_metric(name)

    @property
    def blocks(self) -> frozenset[str]:
        """What the detectors read, and log p for the report."""
        return frozenset({"log_p", *(block for name in self.detectors for block in make_detector(name).requires)})


@dataclass(frozen=True)
class GroupResult:
    """Everything at one group size.

    Attributes:
        group_size: B.
        parts: tables of the in-distribution parts ``fit``, ``calibration`` and ``test``.
        out: table by OOD set.
        pairs: scores by OOD set.
        detectors: the fitted detectors by name.
        calibrations: conformal calibrations by detector.
    """

    group_size: int
    parts: Mapping[str, FeatureTable]
    out: Mapping[str, FeatureTable]
    pairs: Mapping[str, PairScores]
    detectors: Mapping[str, Detector]
    calibrations: Mapping[str, ConformalCalibration]


@dataclass(frozen=True)
class Scored:
    """Result of :func:`score_sets`.

    Attributes:
        protocol: what was done with which samples.
        groups: everything by group size.
    """

    protocol: Protocol
    groups: Mapping[int, GroupResult]


@dataclass(frozen=True)
class Evaluation:
    """Result of :func:`evaluate`.

    Attributes:
        protocol: what was done with which samples.
        records: one for each OOD set, group size and detector.
        groups: everything by group size.
    """

    protocol: Protocol
    records: tuple[Record, ...]
    groups: Mapping[int, GroupResult]


def evaluate(
    target: Target,
    in_dist: Batches,
    out_dists: Sequence[Batches],
    settings: EvaluationSettings | None = None,
    *,
    report: ReportSteps | None = None,
) -> Evaluation:
    """Evaluate detectors on a model: fit and calibrate on in-distribution parts, test against OOD sets.

    Args:
        target: the model.
        in_dist: in-distribution samples that the model was not trained on; half fit, a quarter calibrate and a
            quarter test.
        out_dists: out-of-distribution samples; used for the test only.
        settings: detectors, group sizes, seed.
        report: called with (what, samples done, samples in all).

    Raises:
        DataError: too few samples, samples the model was trained on, or sets of different kinds of samples.
    """
    settings = settings or EvaluationSettings()
    for data in out_dists:
        if shared := int(among(data.keys, in_dist.keys).sum()):
            _LOG.warning(
                "fisherscope: %d of %d samples of %s are in %s too, by which detectors are fitted and tested; leave "
                "them out",
                shared,
                len(data),
                data.name,
                in_dist.name,
            )
    scored = score_sets(target, in_dist, out_dists, settings, report=report)
    records = [
        record
        for group in scored.groups.values()
        for pair in group.pairs.values()
        for record in evaluate_pair(
            pair, seed=settings.seed, fpr_level=settings.fpr_level, replicates=settings.replicates
        )
    ]
    return Evaluation(scored.protocol, tuple(records), scored.groups)


def score_sets(
    target: Target,
    in_dist: Batches,
    out_dists: Sequence[Batches],
    settings: EvaluationSettings,
    *,
    report: ReportSteps | None = None,
) -> Scored:
    """Fit detectors and score every set with them; arguments and errors as :func:`evaluate`, without its figures."""
    names = [d.name for d in (in_dist, *out_dists)]
    if not out_dists or len(set(names)) != len(names):
        raise SettingError(f"expected an in-distribution set and others, each once, given {names}")
    for data in out_dists:
        data.require_columns(in_dist.columns, in_dist.name)
        if target.data_shape is None:
            data.require_form(in_dist.form, f"{in_dist.name} holds")
    if not settings.allow_training_samples:
        for data in (in_dist, *out_dists):
            require_held_out(target, settings.companions, data.keys, f"evaluate ({data.name})")
    for name, reason, kind in unserved(target, in_dist, settings):
        raise kind(f"{name} cannot be had of {target.name}: {reason}; leave it out")
    job = _Evaluation(target, in_dist, tuple(out_dists), settings, report)
    job = replace(job, metrics=job.fitted_metrics())
    return Scored(job.protocol(), {size: job.at_group_size(size) for size in settings.group_sizes})


def unserved(
    target: Target, in_dist: Batches, settings: EvaluationSettings
) -> Iterator[tuple[str, str, type[FisherscopeError]]]:
    """Yield the detectors that have too few groups to fit on, or a model that does not serve them: why, whose fault.

    A model is asked with one sample, once for each block that not every model has.
    """
    asked = dict[str, str | None]()
    there = {size: len(in_dist.split(size, settings.seed).fit) // size for size in settings.group_sizes}
    for name in settings.detectors:
        detector = make_detector(name)
        uncommon = [b for b in detector.requires if b not in _EVERY_MODEL and ":" not in b]
        for block in uncommon:
            if block not in asked:
                asked[block] = _refusal(target, in_dist, block, settings.companions)
        refused = [reason for block in uncommon if (reason := asked[block]) is not None]
        few = [
            f"it needs {detector.min_fit} groups of {size} to fit on, {in_dist.name} leaves {groups}"
            for size, groups in there.items()
            if groups < detector.min_fit
        ]
        if refused or few:
            yield name, (refused + few)[0], ModelError if refused else DataError


def _refusal(target: Target, data: Batches, block: str, companions: tuple[Companion, ...]) -> str | None:
    """Return why a model cannot fill a block, or None."""
    try:
        extract_table(target, data.select([0]), (block,), ExtractSettings(companions=companions))
    except ModelError as cause:
        return str(cause).partition(";")[0]
    return None


@dataclass(frozen=True)
class _Evaluation:
    target: Target
    in_dist: Batches
    out_dists: tuple[Batches, ...]
    settings: EvaluationSettings
    report: ReportSteps | None
    metrics: tuple[FisherMetric, ...] = ()

    def fitted_metrics(self) -> tuple[FisherMetric, ...]:
        names = metrics_in(self.settings.blocks)
        if not names:
            return ()
        split = self.in_dist.split(1, self.settings.seed)
        return fit_metrics_on(
            self.target,
            self.in_dist.select(split.fit),
            names,
            self._extraction(1),
            report=self._progress(f"{self.in_dist.name}, metrics"),
        )

    def _extraction(self, size: int) -> ExtractSettings:
        return ExtractSettings(
            size,
            self.settings.seed,
            max_memory=self.settings.max_memory,
            companions=self.settings.companions,
        )

    def _progress(self, what: str) -> ReportProgress:
        def report(done: int, total: int) -> None:
            if self.report is not None:
                self.report(what, done, total)

        return report

    def protocol(self) -> Protocol:
        split = self.in_dist.split(1, self.settings.seed)
        clustered = [d.name for d in (self.in_dist, *self.out_dists) if d.joined_clusters is not None]
        return Protocol(
            in_dist=self.in_dist.name,
            out_dists=tuple(d.name for d in self.out_dists),
            n_out=tuple(len(d) for d in self.out_dists),
            n_fit=len(split.fit),
            n_calibration=len(split.calibration),
            n_test=len(split.test),
            group_sizes=self.settings.group_sizes,
            seed=self.settings.seed,
            training_checked=getattr(self.target.module, "train_keys", None) is not None
            and not self.settings.allow_training_samples,
            replicates=self.settings.replicates,
            clustered=tuple(clustered),
        )

    def at_group_size(self, size: int) -> GroupResult:
        parts = dict(self._in_dist_parts(size))
        out = {
            d.name: self._table(d, out_dist_groups(len(d), size, self.settings.seed).ravel(), size)
            for d in self.out_dists
        }
        detectors = {name: make_detector(name).fit(parts["fit"]) for name in self.settings.detectors}
        scores = {part: _score_all(detectors, table) for part, table in parts.items() if part != "fit"}
        calibrations = {n: ConformalCalibration.from_scores(s) for n, s in scores["calibration"].items()}
        # With fewer calibration groups no p-value can reach the level: false alarms are then left out, not the AUROC.
        countable = len(parts["calibration"]) >= groups_needed(self.settings.fpr_level)
        clusters_in = _clusters(self.in_dist, parts["test"])
        pairs = {
            d.name: PairScores(
                in_dist=self.in_dist.name,
                out_dist=d.name,
                group_size=size,
                scores_in=scores["test"],
                scores_out=_score_all(detectors, out[d.name]),
                scores_calibration=scores["calibration"] if countable else {},
                clusters_in=clusters_in,
                clusters_out=_clusters(d, out[d.name]),
                independent=self.in_dist.joined_clusters is None,
            )
            for d in self.out_dists
        }
        return GroupResult(size, parts, out, pairs, detectors, calibrations)

    def _in_dist_parts(self, size: int) -> Iterator[tuple[str, FeatureTable]]:
        split = self.in_dist.split(size, self.settings.seed)
        index = {"fit": split.fit, "calibration": split.calibration, "test": split.test}
        table = self._table(self.in_dist, np.concatenate(list(index.values())), size)
        start = 0
        for part, rows in index.items():
            stop = start + len(rows) // size
            yield part, table.select(slice(start, stop))
            start = stop

    def _table(self, data: Batches, rows: np.typing.NDArray[np.intp], size: int) -> FeatureTable:
        blocks, settings = self.settings.blocks, self._extraction(size)
        chosen = data.select(rows)
        report = self._progress(f"{data.name}, B = {size}")
        if self.settings.tables is None:
            return extract_table(self.target, chosen, blocks, settings, metrics=self.metrics, report=report)
        return kept_table(
            self.settings.tables, self.target, chosen, blocks, settings, metrics=self.metrics, report=report
        )


def _score_all(detectors: Mapping[str, Detector], table: FeatureTable) -> dict[str, Scores]:
    return {name: detector.score(table) for name, detector in detectors.items()}


def _clusters(data: Batches, table: FeatureTable) -> Clusters | None:
    # A group of several samples is drawn from several clusters; only single samples can be resampled by cluster.
    if table.card.group_size > 1:
        return None
    if (clusters := data.joined_clusters) is None:
        return None
    by_id = dict(zip(data.ids, clusters, strict=True))
    return [by_id[ids[0]] for ids in table.ids]
