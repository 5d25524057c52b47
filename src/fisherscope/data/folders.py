"""Folders of image files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fisherscope.core.errors import DataError
from fisherscope.data.formats import looked_for
from fisherscope.data.images import OTHER_SUFFIXES, SUFFIXES, decode_images
from fisherscope.data.samples import DEFAULTS, ReadOptions, Samples, track_names

_LOG = logging.getLogger(__name__)


def read_folder(folder: Path, name: str, options: ReadOptions = DEFAULTS) -> Samples:
    """Read every image below a folder, sorted by relative path.

    Args:
        folder: the folder; subfolders and links to folders are read too, hidden files and other suffixes are ignored; a
            warning is logged where these are of images (:data:`~fisherscope.data.images.OTHER_SUFFIXES`).
        name: name of the set.
        options: subset and conversion.

    Raises:
        DataError: no image in the folder (the message says what is there), or one that cannot be used.
    """
    files = _image_files(folder)
    chosen = [files[i] for i in options.rows(len(files))]
    # a name that is no UTF-8 could be written to no report
    ids = [os.fsencode(f.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace") for f in chosen]
    x = decode_images(((str(f), f) for f in chosen), len(chosen), options.resize)
    return Samples.from_array(x, ids, name, clusters=track_names(ids))


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder but hidden ones, behind links too, each folder once."""

    def stop(cause: OSError) -> None:
        raise DataError(f"{cause.filename} cannot be read ({cause.strerror}); allow it, or move it away")

    seen = set[str]()
    for place, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            yield from (Path(place, name) for name in names if not name.startswith("."))
        seen.add(real)


def _image_files(folder: Path) -> list[Path]:
    files = list(_files(folder))
    suffixes = Counter(p.suffix.lower() or "no suffix" for p in files)
    images = sorted((p for p in files if p.suffix.lower() in SUFFIXES), key=lambda p: p.relative_to(folder).as_posix())
    if not images:
        found = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(5)) or "no files"
        raise DataError(
            f"{folder} holds no images ({found}); expected files ending in {', '.join(sorted(SUFFIXES))}, or a "
            f"download as its authors packed it ({looked_for()})"
        )
    if other := {suffix: count for suffix, count in sorted(suffixes.items()) if suffix in OTHER_SUFFIXES}:
        _LOG.warning(
            "fisherscope: %s: %d images are left out, as files ending in %s are not read; convert them",
            folder,
            sum(other.values()),
            ", ".join(other),
        )
    return images
