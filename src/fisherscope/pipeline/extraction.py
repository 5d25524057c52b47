"""Extraction: from samples to a feature table, in shards that survive an interruption."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from fisherscope.core.errors import DataError, NonFiniteLogProbError, SettingError
from fisherscope.core.package_code import own_code
from fisherscope.core.settings import require_whole
from fisherscope.core.table import Card, FeatureTable
from fisherscope.features.companions import Companion
from fisherscope.features.extractors import Extractor, Request, choose_extractors, extract_blocks
from fisherscope.features.gradients import Reduction, gradient_pass
from fisherscope.features.metrics import (
    FisherMetric,
    RunPass,
    SketchSettings,
    fit_metrics,
    make_metric,
    update_metrics,
)
from fisherscope.features.terms import term_names
from fisherscope.models.training.workers import ALONE, Workers
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.target import Target

ReportProgress = Callable[[int, int], None]

DEFAULT_BLOCKS: Final = ("term_norm", "term_log_p", "code_length", "predictive_length")
"""What the default detector reads."""

BATCH: Final = 128
"""Samples that the model is asked about at a time, where groups do not say otherwise."""
_BATCHES_PER_SHARD: Final = 8


@dataclass(frozen=True)
class ExtractSettings:
    """How to look at the samples.

    Attributes:
        group_size: B, how many consecutive samples are judged together.
        seed: seed of the model's per-sample noise.
        method: ``batched`` or ``loop``.
        max_memory: bytes that one gradient pass may use, or None.
        sketch: sizes and projection seed of the sketches.
        companions: further models, for blocks that need them.
    """

    group_size: int = 1
    seed: int = 0
    method: str = "batched"
    max_memory: int | None = None
    sketch: SketchSettings = field(default_factory=SketchSettings)
    companions: tuple[Companion, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges; numbers of numpy become Python's, as cards are JSON."""
        object.__setattr__(self, "group_size", require_whole("group_size", self.group_size, 1))
        object.__setattr__(self, "seed", require_whole("seed", self.seed, 0))
        if self.method not in ("batched", "loop"):
            raise SettingError(f"method is '{self.method}', expected 'batched' or 'loop'")


def metrics_in(blocks: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the Fisher metrics that blocks such as ``metric:diagonal`` are measured in."""
    return tuple(sorted({block.partition(":")[2] for block in blocks if ":" in block}))


def fit_metrics_on(
    target: Target,
    data: Batches,
    names: Iterable[str],
    settings: ExtractSettings | None = None,
    *,
    own: Iterable[FisherMetric] = (),
    report: ReportProgress | None = None,
) -> tuple[FisherMetric, ...]:
    """Fit Fisher metrics on in-distribution samples.

    Args:
        target: the model.
        data: samples that the model was not trained on, and on which nothing is tested.
        names: see :func:`fisherscope.features.metrics.metric_names`.
        settings: seed, memory, sketches; metrics are of single samples whatever the group size.
        own: unfitted metrics that some of the names mean; copies of them are fitted.
        report: called with (samples done, samples in all) in each pass.

    Raises:
        SettingError: there is no such metric.
        DataError: the gradients of all samples are the same, or one is NaN or infinite.
        ModelError: a metric needs Kronecker factors, and no parameter has any.
    """
    settings = settings or ExtractSettings()
    given = {metric.name: metric for metric in own}
    metrics = [copy.deepcopy(given.get(name)) or make_metric(name, settings.sketch) for name in names]
    fit_metrics(metrics, _passes_over(target, data, settings, report))
    return tuple(metrics)


def update_metrics_on(
    target: Target,
    data: Batches,
    metrics: Iterable[FisherMetric],
    settings: ExtractSettings,
    *,
    report: ReportProgress | None = None,
) -> tuple[FisherMetric, ...]:
    """Return copies of fitted metrics that have taken in further in-distribution samples; arguments as above."""
    updated = copy.deepcopy(tuple(metrics))
    update_metrics(updated, _passes_over(target, data, settings, report))
    return updated


def _passes_over(target: Target, data: Batches, settings: ExtractSettings, report: ReportProgress | None) -> RunPass:
    def run_pass(reductions: Sequence[Reduction], limit: int | None) -> None:
        chosen = data.evenly(limit or len(data))
        for done, part in _batches(chosen):
            request = request_for(target, part, settings, 1)
            with _samples_named(part):
                gradient_pass(
                    request.module,
                    request.tensors(),
                    reductions,
                    log_prob=request.log_prob,
                    seed=request.seed,
                    keys=request.keys,
                    max_memory=request.max_memory,
                )
            if report is not None:
                report(done, len(chosen))

    return run_pass


@contextmanager
def _samples_named(part: Batches) -> Iterator[None]:
    """Have an error call samples by their ids: a number in a batch says nothing to whoever gave more of them."""
    try:
        yield
    except NonFiniteLogProbError as error:
        raise error.named(part.ids) from None


def _batches(data: Batches) -> Iterator[tuple[int, Batches]]:
    starts = list(range(0, len(data), BATCH))
    if len(starts) > 1 and len(data) - starts[-1] == 1:
        # The engine serves a sample by itself differently if a metric needs factors: to the last bit a metric is to
        # learn the same whatever others are fitted beside it, for its fingerprint names its tables.
        starts[-1] -= 1
    for start, stop in pairwise([*starts, len(data)]):
        yield stop, data.select(range(start, stop))


def request_for(target: Target, part: Batches, settings: ExtractSettings, group_size: int) -> Request:
    """Return what features are asked of a model: some samples, in groups of their own size."""
    return Request(
        module=target.module,
        log_prob=target.log_prob,
        x=part.x,
        keys=part.keys,
        group_size=group_size,
        seed=settings.seed,
        method=settings.method,
        max_memory=settings.max_memory,
    )


def table_card(
    target: Target,
    data: Batches,
    settings: ExtractSettings,
    blocks: Iterable[str],
    metrics: Iterable[FisherMetric] = (),
) -> Card:
    """Return the card of the table that :func:`extract_table` makes."""
    metrics = tuple(metrics)
    terms = term_names(target.module, target.log_prob)
    extractors = choose_extractors(blocks, settings.sketch, metrics, settings.companions, terms)
    return _card(target, data, settings, extractors, metrics)


def _card(
    target: Target,
    data: Batches,
    settings: ExtractSettings,
    extractors: Sequence[Extractor],
    metrics: Iterable[FisherMetric],
) -> Card:
    blocks = sorted({block for e in extractors for block in e.blocks})
    said: dict[str, Any] = {
        "blocks": blocks,
        # Keys do not tell 8-bit samples from their float copies, but code lengths and models' inputs differ.
        "samples": data.form,
        "features": {k: v for e in extractors for k, v in e.settings(target.module).items()},
    }
    if code := own_code(target.module, target.log_prob, *metrics):
        said["own_code"] = code
    if any("sketch" in block or block == "term_norm" for block in blocks):
        said["sketch"] = asdict(settings.sketch)
    return Card(
        model=target.fingerprint(),
        model_name=target.name,
        data=data.fingerprint,
        data_name=data.name,
        group_size=settings.group_size,
        seed=settings.seed,
        dtype=target.dtype_name,
        settings=said,
    )


def extract_table(
    target: Target,
    data: Batches,
    blocks: Iterable[str] = DEFAULT_BLOCKS,
    settings: ExtractSettings | None = None,
    *,
    metrics: Iterable[FisherMetric] = (),
    out: str | Path | None = None,
    report: ReportProgress | None = None,
    team: Workers = ALONE,
) -> FeatureTable:
    """Extract features of consecutive groups of samples.

    Several processes share the work shard by shard; batches are those of a single process, and so is the table.

    Args:
        target: the model.
        data: samples; those that do not fill a last group are left out.
        blocks: which blocks to fill; by default those that the default detector reads.
        settings: group size, seed, memory, sketches.
        metrics: fitted ones, for blocks measured in them.
        out: file for the table. An interrupted run leaves its finished shards in ``<out>.parts`` and goes on there.
        report: called with (samples done, samples in all) after every batch.
        team: the processes that call this alike, see :func:`~fisherscope.models.training.workers.workers`; all see
            the folder of ``out``.

    Returns:
        The table, N = n // B rows, in every process.

    Raises:
        DataError: fewer samples than one group.
        CardMismatchError: ``out`` or its parts hold a table of another model, data (or kind of it) or setting.
        SettingError: several processes without ``out``.
    """
    settings = settings or ExtractSettings()
    n_groups = len(data) // settings.group_size
    if n_groups == 0:
        raise DataError(
            f"a group of {settings.group_size} was asked for, but {data.name} has only {len(data)} samples; "
            "give more samples or a smaller group size"
        )
    data = data.whole_groups(settings.group_size)
    metrics = tuple(metrics)
    terms = term_names(target.module, target.log_prob)
    extractors = choose_extractors(blocks, settings.sketch, metrics, settings.companions, terms)
    job = _Job(target, data, settings, extractors, _card(target, data, settings, extractors, metrics), report, team)
    if out is None and team.size > 1:
        raise SettingError(f"{team.size} processes cannot make a table in memory together; give a file as out")
    if out is None:
        return job.all_rows()
    return job.resumable(Path(out))


@dataclass(frozen=True)
class _Job:
    target: Target
    data: Batches
    settings: ExtractSettings
    extractors: list[Extractor]
    card: Card
    report: ReportProgress | None
    team: Workers

    @property
    def batch(self) -> int:
        """Samples a batch: whole groups, about ``BATCH``."""
        return max(1, BATCH // self.settings.group_size) * self.settings.group_size

    def all_rows(self) -> FeatureTable:
        """Return the whole table."""
        return self._rows(0, len(self.data))

    def _rows(self, start: int, stop: int) -> FeatureTable:
        parts = []
        for first in range(start, stop, self.batch):
            parts.append(self._one_batch(self.data.select(range(first, min(first + self.batch, stop)))))
            if self.report is not None:
                self.report(min(first + self.batch, stop), len(self.data))
        return FeatureTable.concatenate(parts)

    def _one_batch(self, part: Batches) -> FeatureTable:
        size = self.settings.group_size
        request = request_for(self.target, part, self.settings, size)
        with _samples_named(part):
            blocks = extract_blocks(self.extractors, request)
        return FeatureTable(
            blocks=blocks,
            columns={k: v for e in self.extractors for k, v in e.columns(self.target.module).items()},
            ids=part.group_ids(size),
            keys=part.keys.reshape(-1, size),
            card=self.card,
        )

    def resumable(self, out: Path) -> FeatureTable:
        """Return the table from ``out``, or make it shard by shard, each process its share; the first joins them."""
        if not out.exists():
            folder = out.with_name(out.name + ".parts")
            starts = range(0, len(self.data), self.batch * _BATCHES_PER_SHARD)
            for start in starts[self.team.rank :: self.team.size]:
                self._shard(folder, start)
            self.team.wait()
            if self.team.main:
                FeatureTable.concatenate([self._shard(folder, start) for start in starts]).save(out)
                shutil.rmtree(folder)
            self.team.wait()
        # the keys are those of the samples: they may have had other names when the table was made
        return replace(self._own(out, out), ids=self.data.group_ids(self.settings.group_size))

    def _own(self, path: Path, left: Path) -> FeatureTable:
        """Return the table of a file of this very extraction; ``left`` is what to remove if it is another's."""
        table = FeatureTable.load(path)
        advice = f"{left} is of a run with other data or settings; remove it, or give another place to write to"
        self.card.require_same(table.card, data=True, advice=advice)
        return table

    def _shard(self, folder: Path, start: int) -> FeatureTable:
        path = folder / f"{start:08d}.safetensors"
        if path.exists():
            return self._own(path, folder)
        table = self._rows(start, min(start + self.batch * _BATCHES_PER_SHARD, len(self.data)))
        table.save(path)
        return table
