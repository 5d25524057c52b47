"""Folders of image files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fisherscope.core.errors import DataError
from fisherscope.data.formats import looked_for
from fisherscope.data.images import SUFFIXES, decode_images
from fisherscope.data.samples import DEFAULTS, ReadOptions, Samples, track_names


def read_folder(folder: Path, name: str, options: ReadOptions = DEFAULTS) -> Samples:
    """Read every image below a folder, sorted by relative path.

    Args:
        folder: the folder; subfolders are read too, hidden files and other suffixes are ignored.
        name: name of the set.
        options: subset and conversion.

    Raises:
        DataError: no image in the folder (the message says what is there), or one that cannot be used.
    """
    files = _image_files(folder)
    chosen = [files[i] for i in options.rows(len(files))]
    ids = [f.relative_to(folder).as_posix() for f in chosen]
    x = decode_images(((str(f), f) for f in chosen), len(chosen), options.resize)
    return Samples.from_array(x, ids, name, clusters=track_names(ids))


def _image_files(folder: Path) -> list[Path]:
    def visible(path: Path) -> bool:
        return not any(part.startswith(".") for part in path.relative_to(folder).parts)

    files = [p for p in folder.rglob("*") if p.is_file() and visible(p)]
    images = sorted((p for p in files if p.suffix.lower() in SUFFIXES), key=lambda p: p.relative_to(folder).as_posix())
    if not images:
        suffixes = Counter(p.suffix.lower() or "no suffix" for p in files)
        found = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(5)) or "no files"
        raise DataError(
            f"{folder} holds no images ({found}); expected files ending in {', '.join(sorted(SUFFIXES))}, or a "
            f"download as its authors packed it ({looked_for()})"
        )
    return images
