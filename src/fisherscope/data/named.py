"""Named sets below a data root: folders of shards or of an original download, and single text and CSV files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fisherscope.core.errors import DataError
from fisherscope.data.formats import list_splits
from fisherscope.data.parts import SPLITS

ENVIRONMENT = "FISHERSCOPE_DATA"
SPLIT_SUFFIXES = (".csv", ".txt")
_SHARD = re.compile(r"^(?P<split>[\w.]+)-(?:.*-of-(?P<count>\d+))?.*\.parquet$")


def find_root(data_root: str | Path | None = None) -> Path | None:
    """Return the folder of named sets: ``data_root``, else the environment's FISHERSCOPE_DATA, else None.

    Raises:
        DataError: that folder does not exist.
    """
    given = data_root or os.environ.get(ENVIRONMENT)
    if not given:
        return None
    root = Path(given).expanduser()
    if not root.is_dir():
        source = "--data-root" if data_root else ENVIRONMENT
        raise DataError(f"the data root {root} (from {source}) is not a folder; set {source} to the folder of the sets")
    return root


def list_sets(data_root: str | Path | None = None) -> dict[str, tuple[str, ...]]:
    """Return the named sets below the data root with their splits, sorted; empty without a data root."""
    root = find_root(data_root)
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root else []
    sets = {f.name: tuple(splits) for f in folders if (splits := split_files(f) or list_splits(f))}
    files = [p for folder in ([root, *folders] if root else []) for p in folder.iterdir() if p.suffix in SPLIT_SUFFIXES]
    return dict(sorted((sets | {p.relative_to(root).as_posix(): SPLITS for p in files if root}).items()))


def named_file(root: Path, name: str) -> Path | None:
    """Return the text or CSV file of a name such as ``text/tiny_shakespeare.txt``, None where there is none."""
    path = Path(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return root / path if inside and path.suffix in SPLIT_SUFFIXES and (root / path).is_file() else None


def split_files(folder: Path) -> dict[str, list[Path]]:
    """Return the shards of every split of a folder, sorted; empty where it holds no ``{split}-*.parquet``."""
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        if match := _SHARD.match(path.name):
            splits.setdefault(match["split"], []).append(path)
    return dict(sorted(splits.items()))


def shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of one split.

    Raises:
        DataError: there is no such split, or a shard ``...-of-NNNNN`` of it is missing.
    """
    splits = split_files(folder)
    if split not in splits:
        raise DataError(f"{folder} has no split '{split}', only {sorted(splits)}; pick one, as in {folder.name}[train]")
    paths = splits[split]
    match = _SHARD.match(paths[0].name)
    count = match["count"] if match else None
    if count is not None and int(count) != len(paths):
        raise DataError(f"{folder} holds {len(paths)} of {int(count)} shards of split '{split}'; download the others")
    return paths
