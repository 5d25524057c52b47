"""Feature tables that are kept in a folder and found again, also as parts of larger ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import FisherscopeError
from fisherscope.core.keys import KeyArray
from fisherscope.core.store import read_card
from fisherscope.core.table import Card, FeatureTable, is_group_block
from fisherscope.features.metrics import FisherMetric
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.cache import FEATURES, cache_file, file_ending
from fisherscope.pipeline.extraction import ExtractSettings, ReportProgress, extract_table, table_card
from fisherscope.pipeline.target import Target

_SAME: Final = ("format_version", "model", "data_name", "seed", "dtype")
"""What the cards of two tables must agree in, beside the samples' kind; settings are compared block by block. Changed
copies of samples (blurred, recoded) share the keys with them: only the name of the data tells them apart."""


def kept_table(
    folder: Path,
    target: Target,
    data: Batches,
    blocks: Iterable[str],
    settings: ExtractSettings,
    *,
    metrics: Iterable[FisherMetric] = (),
    report: ReportProgress | None = None,
) -> FeatureTable:
    """Return features, as :func:`extract_table` makes them, from the tables of a folder; what is missing is kept there.

    A block is taken from any table of the same model, samples (of the same kind, not 8-bit for floating) and settings
    that the same code made: what a large study extracted serves every smaller one, and a larger one extracts only what
    it does not find. Blocks of single samples are found in tables of other group sizes and orders too.

    Args:
        folder: of tables.
        target: the model.
        data: samples.
        blocks: which blocks to fill.
        settings: group size, seed, memory, sketches.
        metrics: fitted ones, for blocks measured in them.
        report: called with (samples done, samples in all) after every batch that has to be extracted.
    """
    metrics, size = tuple(metrics), settings.group_size
    data = data.whole_groups(size)
    card = table_card(target, data, settings, blocks, metrics)
    wanted = set(card.settings["blocks"])
    held = _find(folder, card, wanted, data.keys.reshape(-1, size))
    missing = wanted - held.keys()
    if missing or not len(data):
        used = [m for m in metrics if any(block.partition(":")[2] == m.name for block in missing)]
        narrow = table_card(target, data, settings, missing, used)
        out = cache_file(folder, narrow.digest(), FEATURES)
        out.unlink(missing_ok=True)  # it was found above, were it not damaged
        made = extract_table(target, data, missing, settings, metrics=used, out=out, report=report)
        held |= {block: _Held(made.block(block), made.columns.get(block)) for block in missing}
    return FeatureTable(
        blocks={block: held[block].values for block in sorted(wanted)},
        columns={block: names for block in sorted(wanted) if (names := held[block].columns) is not None},
        ids=data.group_ids(size),
        keys=data.keys.reshape(-1, size),
        card=card,
    )


class _Held(NamedTuple):
    """A block and the names of its last axis."""

    values: NDArray[Any]
    columns: tuple[str, ...] | None


def _find(folder: Path, card: Card, wanted: set[str], keys: KeyArray) -> dict[str, _Held]:
    """Return the wanted blocks that some table holds, in the groups and the order of ``keys`` (N, B)."""
    found: dict[str, _Held] = {}
    for path in sorted(folder.glob(f"*{file_ending(FEATURES)}")):
        held = _card_of(path)
        if held is None or not _same_origin(held, card):
            continue
        there = {b for b in wanted.intersection(held.settings["blocks"]) - found.keys() if _same_block(b, held, card)}
        if held.group_size != card.group_size or held.data != card.data:
            there = {block for block in there if not is_group_block(block)}
        if not there:
            continue
        try:
            table = FeatureTable.load(path)
        except FisherscopeError:  # damaged behind its head: made again
            continue
        rows = _rows_of(keys, table)
        if rows is not None:
            found |= {block: _Held(_taken(table, block, rows), table.columns.get(block)) for block in there}
    return found


def _rows_of(keys: KeyArray, table: FeatureTable) -> NDArray[np.intp] | None:
    """Return where a table holds the samples of some keys, counted over all its members; None if it lacks one."""
    order = np.argsort(table.keys, axis=None)
    sorted_keys = table.keys.ravel()[order]
    places = np.searchsorted(sorted_keys, keys).clip(max=len(order) - 1)
    return order[places] if (sorted_keys[places] == keys).all() else None


def _taken(table: FeatureTable, block: str, rows: NDArray[np.intp]) -> NDArray[Any]:
    values = table.block(block)
    if is_group_block(block):
        return values  # of the same samples in the same groups
    return values.reshape(-1, *values.shape[2:])[rows]


def _card_of(path: Path) -> Card | None:
    """Return the card of a table; None for files of other kinds, and for broken ones, which are left alone."""
    try:
        head = read_card(path)
        return Card.from_json(head["card"]) if isinstance(head, dict) and "columns" in head else None
    except FisherscopeError:
        return None


def _same_origin(held: Card, wanted: Card) -> bool:
    """Whether model, noise and kind of the samples agree, and the user's own code behind the model."""
    same_kind = all(held.settings.get(name) == wanted.settings.get(name) for name in ("samples", "own_code"))
    return same_kind and all(getattr(held, name) == getattr(wanted, name) for name in _SAME)


def _same_block(block: str, held: Card, wanted: Card) -> bool:
    """Whether the settings that one block depends on agree."""
    ours, theirs = wanted.settings, held.settings
    sketched = "sketch" in block and ours["sketch"] != theirs["sketch"]
    return not sketched and ours["features"].get(block) == theirs["features"].get(block)
