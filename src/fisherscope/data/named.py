"""Named sets below a data root: folders of shards or of an original download, and single text and CSV files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fisherscope.core.errors import DataError, some_of
from fisherscope.data.formats import list_splits
from fisherscope.data.parts import SPLITS

ENVIRONMENT = "FISHERSCOPE_DATA"
SPLIT_SUFFIXES = (".csv", ".txt")
_SHARD = re.compile(r"^(?P<split>[\w.]+)-(?:(?:.*-)?(?P<index>\d+)-of-(?P<count>\d+))?.*\.parquet$")


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
        DataError: there is no such split, or its files are not the shards ``...-IIIII-of-NNNNN`` of one N, each once
            (where no name says so, all files are taken).
    """
    splits = split_files(folder)
    if split not in splits:
        raise DataError(f"{folder} has no split '{split}', only {sorted(splits)}; pick one, as in {folder.name}[train]")
    _require_complete(folder, split, splits[split])
    return splits[split]


def _require_complete(folder: Path, split: str, paths: list[Path]) -> None:
    """Check by their names that files are all shards of one set, each once."""
    named = [match for path in paths if (match := _SHARD.match(path.name)) and match["count"]]
    if not named:
        return
    counts = {int(match["count"]) for match in named}
    count = max(counts)
    by_index: dict[int, list[str]] = {}
    for match in named:
        by_index.setdefault(int(match["index"]), []).append(match.string)
    copies = next((same for same in by_index.values() if len(same) > 1), None)
    if len(counts) > 1 or len(named) < len(paths) or max(by_index) >= count:
        raise DataError(
            f"{folder} mixes the files {some_of([path.name for path in paths])} of split '{split}', expected shards "
            "0 to N - 1 called '-of-N' with one N; remove what is not of this set"
        )
    if copies is not None:
        raise DataError(f"{folder} holds one shard of split '{split}' as {some_of(copies)}; keep one of them")
    if len(named) < count:
        first = next(i for i in range(count) if i not in by_index)
        raise DataError(
            f"{folder} holds {len(named)} of {count} shards of split '{split}' (shard {first} is the first that is "
            "missing); download the others"
        )
