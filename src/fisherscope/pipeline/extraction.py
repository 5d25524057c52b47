"""Extraction: from samples to a feature table, in shards that survive an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.table import Card, FeatureTable
from fisherscope.features.extractors import Extractor, Request, choose_extractors, extract_blocks
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.target import Target

ReportProgress = Callable[[int, int], None]

_BATCH: Final = 64
_BATCHES_PER_SHARD: Final = 8


@dataclass(frozen=True)
class ExtractSettings:
    """How to look at the samples.

    Attributes:
        group_size: B, how many consecutive samples are judged together.
        seed: seed of the model's per-sample noise.
        method: ``batched`` or ``loop``.
        max_memory: bytes that one gradient pass may use, or None.
    """

    group_size: int = 1
    seed: int = 0
    method: str = "batched"
    max_memory: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.group_size < 1:
            raise SettingError(f"group_size is {self.group_size}, expected at least 1")
        if self.method not in ("batched", "loop"):
            raise SettingError(f"method is '{self.method}', expected 'batched' or 'loop'")


def table_card(target: Target, data: Batches, settings: ExtractSettings, blocks: Iterable[str]) -> Card:
    """Return the card of the table that :func:`extract_table` makes."""
    return Card(
        model=target.fingerprint(),
        model_name=target.name,
        data=data.fingerprint,
        data_name=data.name,
        group_size=settings.group_size,
        seed=settings.seed,
        dtype=target.dtype_name,
        settings={"blocks": sorted(blocks)},
    )


def extract_table(
    target: Target,
    data: Batches,
    blocks: Iterable[str] = ("grad_norm", "log_p"),
    settings: ExtractSettings | None = None,
    *,
    out: str | Path | None = None,
    report: ReportProgress | None = None,
) -> FeatureTable:
    """Extract features of consecutive groups of samples.

    Args:
        target: the model.
        data: samples; those that do not fill a last group are left out.
        blocks: which blocks to fill.
        settings: group size, seed, memory.
        out: file for the table. An interrupted run leaves its finished shards in ``<out>.parts`` and goes on there.
        report: called with (samples done, samples in all) after every batch.

    Returns:
        The table, N = n // B rows.

    Raises:
        DataError: fewer samples than one group.
        CardMismatchError: ``out`` or its parts hold a table of another model, data or setting.
    """
    settings = settings or ExtractSettings()
    n_groups = len(data) // settings.group_size
    if n_groups == 0:
        raise DataError(
            f"a group of {settings.group_size} was asked for, but {data.name} has only {len(data)} samples; "
            "give more samples or a smaller group size"
        )
    data = data.select(range(n_groups * settings.group_size))
    extractors = choose_extractors(blocks)
    filled = {block for e in extractors for block in e.blocks}
    job = _Job(target, data, settings, extractors, table_card(target, data, settings, filled), report)
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

    @property
    def batch(self) -> int:
        """Samples a batch: whole groups, about ``_BATCH``."""
        return max(1, _BATCH // self.settings.group_size) * self.settings.group_size

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
        request = Request(
            module=self.target.module,
            log_prob=self.target.log_prob,
            x=part.x,
            keys=part.keys,
            group_size=size,
            seed=self.settings.seed,
            method=self.settings.method,
            max_memory=self.settings.max_memory,
        )
        return FeatureTable(
            blocks=extract_blocks(self.extractors, request),
            columns={k: v for e in self.extractors for k, v in e.columns(self.target.module).items()},
            ids=tuple(part.ids[i : i + size] for i in range(0, len(part), size)),
            keys=part.keys.reshape(-1, size),
            card=self.card,
        )

    def resumable(self, out: Path) -> FeatureTable:
        """Return the table from ``out``, or make it shard by shard."""
        if out.exists():
            table = FeatureTable.load(out)
            self.card.require_same(table.card, data=True)
            return table
        folder = out.with_name(out.name + ".parts")
        step = self.batch * _BATCHES_PER_SHARD
        parts = [
            self._shard(folder, start, min(start + step, len(self.data))) for start in range(0, len(self.data), step)
        ]
        table = FeatureTable.concatenate(parts)
        table.save(out)
        shutil.rmtree(folder)
        return table

    def _shard(self, folder: Path, start: int, stop: int) -> FeatureTable:
        path = folder / f"{start:08d}.safetensors"
        if path.exists():
            table = FeatureTable.load(path)
            self.card.require_same(table.card, data=True)
            return table
        table = self._rows(start, stop)
        table.save(path)
        return table
