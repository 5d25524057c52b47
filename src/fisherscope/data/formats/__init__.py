"""Downloads as their authors packed them: how a folder is recognised, and what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fisherscope.core.errors import DataError
from fisherscope.data.formats.base import Format
from fisherscope.data.formats.batches import Batches
from fisherscope.data.formats.celeba import CelebA
from fisherscope.data.formats.cifar import CIFAR10_BINARY, CIFAR10_PYTHON
from fisherscope.data.formats.gtsrb import Gtsrb
from fisherscope.data.formats.idx import IDX
from fisherscope.data.formats.imagenet32 import IMAGENET32
from fisherscope.data.formats.svhn import SVHN
from fisherscope.data.samples import DEFAULTS, ReadOptions, Samples

__all__ = ["Format", "batch_format", "find_format", "list_splits", "looked_for", "read_original"]

BATCHES: Final[tuple[Batches, ...]] = (SVHN, IMAGENET32, CIFAR10_PYTHON, CIFAR10_BINARY, IDX)
FORMATS: Final[tuple[Format, ...]] = (*BATCHES, CelebA(), Gtsrb())


def find_format(folder: Path) -> Format | None:
    """Return the format of a folder as its authors packed it, None where it is none of :data:`FORMATS`."""
    return next((f for f in FORMATS if folder.is_dir() and f.splits(folder)), None)


def batch_format(path: Path) -> Batches | None:
    """Return the format that a single file belongs to by its name, None where there is none."""
    return next((f for f in BATCHES if f.knows(path)), None)


def list_splits(folder: Path) -> tuple[str, ...]:
    """Return the splits of a folder as its authors packed it, sorted; empty where it is not recognised."""
    found = find_format(folder)
    return tuple(sorted(found.splits(folder))) if found else ()


def looked_for() -> str:
    """Return in words which original files are looked for, for messages."""
    return "; ".join(f"{f.title}: {f.looked_for}" for f in FORMATS)


def read_original(folder: Path, split: str, name: str, options: ReadOptions = DEFAULTS) -> Samples:
    """Read one split of a folder as its authors packed it.

    Args:
        folder: the folder.
        split: one of :func:`list_splits`.
        name: name of the set.
        options: subset and conversion.

    Returns:
        Images (N, C, H, W), uint8, with their labels where the set has them.

    Raises:
        DataError: the folder is not recognised (the message says what was looked for), has no such split, or holds a
            file that is missing, truncated or foreign; that file is named.
    """
    found = find_format(folder)
    if found is None:
        raise DataError(f"{folder} holds no known set; looked for {looked_for()}")
    splits = sorted(found.splits(folder))
    if split not in splits:
        raise DataError(f"{folder} ({found.title}) has no split '{split}', only {splits}; unpack the missing archive")
    return found.read(folder, split, name, options)
