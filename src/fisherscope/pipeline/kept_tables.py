"""Feature tables that are kept in a folder and found again, also as parts of larger ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from fisherscope.core.errors import FisherscopeError
from fisherscope.core.store import read_card
from fisherscope.core.table import Card, FeatureTable
from fisherscope.features.metrics import FisherMetric
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.cache import FEATURES, cache_file, file_ending
from fisherscope.pipeline.extraction import ExtractSettings, extract_table, table_card
from fisherscope.pipeline.target import Target

_SAME: Final = ("format_version", "model", "data", "data_name", "group_size", "seed", "dtype")
"""What the cards of two tables must agree in; settings are compared block by block. The fingerprint of the data is that
of the keys, which changed copies of samples (blurred, recoded) share with them: only their name tells them apart."""


def kept_table(
    folder: Path,
    target: Target,
    data: Batches,
    blocks: Iterable[str],
    settings: ExtractSettings,
    *,
    metrics: Iterable[FisherMetric] = (),
    report: Callable[[int, int], None] | None = None,
) -> FeatureTable:
    """Return features, as :func:`extract_table` makes them, from the tables of a folder; what is missing is kept there.

    A block is taken from any table of the same model, samples and settings that the same code made: what a large study
    extracted serves every smaller one, and a larger one extracts only what it does not find.

    Args:
        folder: of tables.
        target: the model.
        data: samples.
        blocks: which blocks to fill.
        settings: group size, seed, memory, sketches.
        metrics: fitted ones, for blocks measured in them.
        report: called with (samples done, samples in all) after every batch that has to be extracted.
    """
    metrics = tuple(metrics)
    card = table_card(target, data, settings, blocks, metrics)
    wanted = set(card.settings["blocks"])
    found = _find(folder, card, wanted)
    missing = wanted - found.keys()
    if missing:
        used = [m for m in metrics if any(block.partition(":")[2] == m.name for block in missing)]
        narrow = table_card(target, data, settings, missing, used)
        out = cache_file(folder, narrow.digest(), FEATURES)
        extract_table(target, data, missing, settings, metrics=used, out=out, report=report)
        found |= dict.fromkeys(missing, out)
    parts = {path: FeatureTable.load(path) for path in set(found.values())}
    return replace(
        next(iter(parts.values())),
        blocks={block: parts[path].block(block) for block, path in sorted(found.items())},
        columns={b: parts[path].columns[b] for b, path in sorted(found.items()) if b in parts[path].columns},
        card=card,
    )


def _find(folder: Path, card: Card, wanted: set[str]) -> dict[str, Path]:
    """Return the files that hold wanted blocks, by block."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*{file_ending(FEATURES)}")):
        held = _card_of(path)
        if held is not None and all(getattr(held, name) == getattr(card, name) for name in _SAME):
            there = wanted.intersection(held.settings["blocks"])
            found |= {block: path for block in there - found.keys() if _same_block(block, held, card)}
    return found


def _card_of(path: Path) -> Card | None:
    """Return the card of a table; None for files of other kinds, and for broken ones, which are left alone."""
    try:
        head = read_card(path)
        return Card.from_json(head["card"]) if isinstance(head, dict) and "columns" in head else None
    except FisherscopeError:
        return None


def _same_block(block: str, held: Card, wanted: Card) -> bool:
    """Whether the settings that one block depends on agree."""
    ours, theirs = wanted.settings, held.settings
    sketched = "sketch" in block and ours["sketch"] != theirs["sketch"]
    return not sketched and ours["features"].get(block) == theirs["features"].get(block)
