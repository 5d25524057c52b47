"""The idx files of MNIST and Fashion-MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.data.formats.batches import Batch, Batches, whole_labels

_UNSIGNED_BYTES: Final = 8


def read_idx_images(path: Path) -> Batch:
    """Read idx images and, where the file of the same name with ``labels-idx1`` lies beside them, their labels.

    Source: the description of the format by LeCun, Cortes and Burges, on the page of MNIST.

    Returns:
        Images (n, 1, H, W) and labels.

    Raises:
        DataError: a file is truncated, foreign, or of another number of axes; or labels and images differ in number.
    """
    images = read_idx(path, axes=3)[:, None]
    beside = _labels_of(path)
    return Batch(images, whole_labels(read_idx(beside, axes=1), len(images), beside) if beside else None)


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes: two zero bytes, the type 8, the number of axes, their big-endian lengths.

    Raises:
        DataError: the file is truncated, too long, no idx file, or has another type or number of axes.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path} is not a readable file ({cause}); download it again") from None
    start = 4 + 4 * axes
    if len(content) < start or content[:4] != bytes((0, 0, _UNSIGNED_BYTES, axes)):
        raise DataError(
            f"{path} begins with {content[:4].hex(' ') or 'nothing'}, expected 00 00 08 {axes:02x}, an idx file of "
            f"bytes with {axes} axes; download it again"
        )
    shape = [int(n) for n in np.frombuffer(content[4:start], ">u4")]
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes, its header promises {expected}; download it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _labels_of(path: Path) -> Path | None:
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    return next((p for p in (path.with_name(name), path.with_name(f"{name}.gz")) if p.is_file()), None)


def _names(stem: str) -> str:
    plain = (f"{stem}-images-idx3-ubyte", f"{stem}-images.idx3-ubyte")
    return "|".join(name + suffix for name in plain for suffix in ("", ".gz"))


IDX: Final = Batches(
    "MNIST and Fashion-MNIST",
    {"train": (_names("train"),), "test": (_names("t10k"),)},
    ("raw", "MNIST/raw", "FashionMNIST/raw"),
    read_idx_images,
)
