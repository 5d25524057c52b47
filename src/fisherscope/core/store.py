"""Files: written whole or not at all, never unpickled.

Arrays live in safetensors, everything else in JSON. A file is written to a temporary name beside its target and
renamed, so an interrupted run never leaves half a file under the real name.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as dump_safetensors

from fisherscope.core.errors import DataError, FisherscopeError
from fisherscope.core.keys import fingerprint

JSON = Any

_LOG = logging.getLogger(__name__)


def write_atomic(path: Path, content: bytes) -> None:
    """Write bytes to ``path`` by way of a temporary file in the same folder and a rename.

    A link stays, what it points to is written; a pipe or a device is written to as it is.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path, head: str) -> Iterator[Path]:
    """Yield a temporary folder whose files come to ``path`` when the block ends without an error.

    Until then ``path`` stays untouched, and a new one appears by a single rename. In an existing one, what an earlier
    call with this ``head`` wrote gives way, by the list in the hidden file ``.HEAD.files``; all else stays, but a file
    whose name is needed gets ``.before`` behind it, and a warning says so. If a rename fails, those before it are
    undone; a process killed between two of them leaves a folder without ``head``, never one with old and new files.

    Args:
        path: the folder.
        head: the file in it without which the others mean nothing.

    Raises:
        DataError: ``path`` is a file.
    """
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file, expected a folder or a new name; choose another")
    place = path if path.exists() else path.parent
    place.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{path.name}."))
    new = temporary / "new"
    try:
        new.mkdir()
        yield new
        coming = {file.relative_to(new) for file in new.rglob("*") if file.is_file()}
        write_json(new / _list_of(head), sorted(file.as_posix() for file in coming))
        if path.exists():
            _exchange(new, path, temporary / "old", head, coming)
        else:
            new.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _list_of(head: str) -> Path:
    return Path(f".{head}.files")


def _exchange(new: Path, path: Path, old: Path, head: str, coming: set[Path]) -> None:
    known = _list_of(head)
    listed = _listed(path, known)
    foreign = [path / file for file in sorted(coming - listed) if (path / file).exists()]
    others = [(file, _unused(file.with_name(f"{file.name}.before"))) for file in foreign]
    moves = [(path / file, old / file) for file in sorted(listed, key=lambda file: file != Path(head))]
    moves += others
    moves += [(new / file, path / file) for file in sorted({*coming, known}, key=lambda file: file == Path(head))]
    for file, kept in others:
        _LOG.warning("fisherscope: %s was not written by an earlier run: kept as %s", file, kept.name)
    try:
        for source, destination in moves:
            destination.parent.mkdir(parents=True, exist_ok=True)
            source.rename(destination)
    except BaseException:
        for source, destination in reversed(moves):
            if destination.exists() and not source.exists():
                destination.rename(source)
        raise


def _listed(path: Path, known: Path) -> set[Path]:
    """Return what is there of the files that a folder's list names, and the list itself; none if it cannot be read."""
    if not (path / known).is_file():
        return set()
    try:
        names = [Path(str(name)) for name in read_json(path / known)]
    except (DataError, TypeError):
        names = []
    within = {name for name in names if not name.is_absolute() and ".." not in name.parts}
    return {name for name in (*within, known) if (path / name).is_file()}


def _unused(path: Path) -> Path:
    """Return a path, with a number behind it where it is taken."""
    taken = count(1)
    found = path
    while found.exists():
        found = path.with_name(f"{path.name}{next(taken)}")
    return found


def write_json(path: Path, value: JSON) -> None:
    """Write a JSON file atomically. NaN and inf are refused."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, error: Callable[[str], FisherscopeError] = DataError) -> JSON:
    """Read a JSON file; ``error`` is what a missing or broken one raises."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except (ValueError, UnicodeDecodeError, OSError) as cause:
        raise error(f"{path} is not readable JSON ({cause})") from None


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], card: JSON) -> None:
    """Write named arrays and a JSON card into one safetensors file, atomically, with a digest of them."""
    contiguous = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    metadata = {"card": json.dumps(card, allow_nan=False), "digest": _digest(contiguous)}
    write_atomic(path, dump_safetensors(contiguous, metadata=metadata))


def read_arrays(
    path: Path, error: Callable[[str], FisherscopeError] = DataError
) -> tuple[dict[str, NDArray[Any]], JSON]:
    """Read what :func:`write_arrays` wrote; ``error`` is what a missing, damaged or foreign file raises."""
    with _opened(path, error) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        said = (file.metadata() or {}).get("digest")  # files of before have none
        if said is not None and said != _digest(arrays):
            raise error(f"{path} is damaged: its arrays are not those that were written; write it again")
        return arrays, _card_in(path, file, error)


def read_card(path: Path, error: Callable[[str], FisherscopeError] = DataError) -> JSON:
    """Read the card of what :func:`write_arrays` wrote without its arrays; ``error`` as in :func:`read_arrays`."""
    with _opened(path, error) as file:
        return _card_in(path, file, error)


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    return fingerprint(
        part
        for name, array in sorted(arrays.items())
        for part in (f"{name} {array.dtype} {array.shape}".encode(), array.tobytes())
    )


@contextmanager
def _opened(path: Path, error: Callable[[str], FisherscopeError]) -> Iterator[Any]:
    if not path.is_file():
        raise error(f"{path} does not exist or is not a file")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FisherscopeError:
        raise
    except (SafetensorError, OSError, ValueError) as cause:
        raise error(f"{path} is truncated or not a safetensors file ({cause}); write it again") from None


def _card_in(path: Path, file: Any, error: Callable[[str], FisherscopeError]) -> JSON:
    metadata = file.metadata() or {}
    if "card" not in metadata:
        raise error(f"{path} holds no fisherscope card; it was written by something else")
    try:
        return json.loads(metadata["card"])
    except ValueError:
        raise error(f"{path} is damaged: its card is no JSON; write it again") from None
