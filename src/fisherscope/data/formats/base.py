"""What a format of an original download does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fisherscope.data.samples import ReadOptions, Samples


class Format(Protocol):
    """How the folder of a download is recognised, and what reads it."""

    @property
    def title(self) -> str:
        """Name of the format, for messages."""

    @property
    def looked_for(self) -> str:
        """The files by which a folder is recognised, for messages."""

    def splits(self, folder: Path) -> Sequence[str]:
        """Return the splits that a folder holds at least a part of; empty where it is not of this format."""

    def read(self, folder: Path, split: str, name: str, options: ReadOptions) -> Samples:
        """Return one of those splits as samples; raise DataError with the name of the file that cannot be used."""


def first_folder(folder: Path, inside: Sequence[str], marker: str) -> Path | None:
    """Return the first of the subfolders ``inside`` that holds something called ``marker`` (a glob pattern)."""
    places = (folder / place for place in inside)
    return next((p for p in places if p.is_dir() and next(p.glob(marker), None)), None)
