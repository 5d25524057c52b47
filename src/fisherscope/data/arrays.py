"""Arrays in memory and in .npy and .npz files. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from fisherscope.core.errors import DataError
from fisherscope.data.images import resize_array
from fisherscope.data.samples import DEFAULTS, Array, ReadOptions, Samples

_LAYOUTS = "uint8 (N, C, H, W), (N, H, W, C) or (N, H, W) with C 1 or 3, float (N, ...) or tokens int64 (N, T)"
_TOKENS = (np.int32, np.int64)


def read_array_file(path: Path, name: str, options: ReadOptions = DEFAULTS, *, entry: str | None = None) -> Samples:
    """Read a .npy file, or one array of a .npz file.

    Args:
        path: the file.
        name: name of the set.
        options: subset and conversion.
        entry: which array of a .npz file; not needed where there is only one.

    Raises:
        DataError: a truncated file, an object array (it would have to be unpickled), an unknown or missing entry,
            or an array that :func:`samples_from_array` refuses.
    """
    try:
        array = _read(path, entry)
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as cause:
        raise DataError(
            f"{path} is not a readable array ({cause}); save it with numpy.save, without object arrays"
        ) from None
    return samples_from_array(array, name, options)


def samples_from_array(array: Array, name: str, options: ReadOptions = DEFAULTS) -> Samples:
    """Return the samples of an array; they are called ``name[row]``.

    Args:
        array: uint8 images (N, C, H, W), (N, H, W, C) or (N, H, W) with C 1 or 3, float rows (N, ...) or tokens
            (N, T), int32 or int64; rows and tokens keep their dtype.
        name: name of the set.
        options: subset and conversion.

    Raises:
        DataError: another dtype or layout, one that can be read both ways, NaN or inf, or ``options.resize`` of
            anything but images.
    """
    rows = options.rows(len(array) if array.ndim else 0)
    if array.dtype == np.uint8:
        x = resize_array(np.ascontiguousarray(_channels_first(array, name)[rows]), options.resize)
    elif (array.dtype in (np.float32, np.float64) and array.ndim >= 2) or (array.dtype in _TOKENS and array.ndim == 2):
        if options.resize is not None:
            raise DataError(f"{name} is {array.dtype}; only uint8 images can be resized")
        x = np.array(array[rows])
    else:
        raise DataError(
            f"{name} is {array.dtype} of shape {array.shape}, expected {_LAYOUTS}; cast or reshape the array"
        )
    return Samples.from_array(x, [f"{name}[{i}]" for i in rows], name)


def _channels_first(array: Array, name: str) -> Array:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise DataError(
            f"{name} is uint8 of shape {array.shape}, expected {_LAYOUTS}; reshape images, or cast rows to float32"
        )
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if first == last:
        problem = "can be read as channels first and as channels last" if first else "has no axis of 1 or 3 channels"
        raise DataError(f"{name} of shape {array.shape} {problem}, expected {_LAYOUTS}; transpose or reshape it")
    return array if first else np.moveaxis(array, -1, 1)


def _read(path: Path, entry: str | None) -> Array:
    if path.suffix.lower() == ".npy":
        if entry is not None:
            raise DataError(f"{path} is a single array, it has no '{entry}'; leave the split or array name out")
        array = np.lib.format.open_memmap(path, mode="r")
        if extra := path.stat().st_size - array.offset - array.nbytes:
            raise ValueError(f"{extra} bytes follow its last value")
        return np.asarray(array)
    # numpy leaves a file that it opened itself open when the archive is broken
    with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
        names = archive.files
        if entry is None and len(names) != 1:
            advice = f"pick one, as in {path.name}[{names[0]}]" if names else "save one with numpy.savez"
            raise DataError(f"{path} holds the arrays {names}, expected one; {advice}")
        wanted = names[0] if entry is None else entry
        if wanted not in names:
            raise DataError(f"{path} holds the arrays {names}, not '{wanted}'; pick one of those")
        return np.asarray(archive[wanted])
