"""Splits of what comes as one file: the first 80 % of its samples are ``train``, the rest is ``test``."""

from __future__ import annotations

from typing import Final

from fisherscope.core.errors import DataError

SPLITS: Final = ("test", "train")


def part_of(count: int, split: str | None, name: str) -> range:
    """Return the rows of a split of ``count`` samples in file order.

    The cut depends on the count alone, and it lies between samples: those of both splits are those of the whole file,
    so that a model that was trained on the whole recognises them.

    Args:
        count: number of samples in the file.
        split: ``train``, ``test``, or None for all.
        name: name of the file, for messages.

    Raises:
        DataError: another split, or one that would be empty.
    """
    cut = count * 4 // 5
    parts = {None: range(count), "train": range(cut), "test": range(cut, count)}
    if split not in parts:
        raise DataError(f"{name} has no split '{split}'; of one file the first 80 % are 'train' and the rest is 'test'")
    if not parts[split]:
        raise DataError(f"{name} holds {count} samples, too few to split; leave the split '{split}' out")
    return parts[split]
