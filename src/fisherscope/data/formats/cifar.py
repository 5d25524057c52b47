"""CIFAR-10 in its Python and its binary version."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.data.formats.batches import Batch, Batches, planes
from fisherscope.data.pickles import read_plain_pickle

_RECORD: Final = 1 + 3072
_CLASSES: Final = 10


def read_pickled(path: Path, *, title: str, first_label: int = 0) -> Batch:
    """Read one pickled batch of CIFAR-10 (Krizhevsky 2009), or in its format, without trusting the pickle.

    Args:
        path: of the file.
        title: of the set, for messages.
        first_label: the least label of the file, which becomes 0.

    Returns:
        Images (n, 3, 32, 32) and labels from 0.

    Raises:
        DataError: see :func:`~fisherscope.data.pickles.read_plain_pickle`, or other content than 'data' and 'labels'.
    """
    content = read_plain_pickle(path)
    if not {"data", "labels"} <= content.keys():
        raise DataError(f"{path} holds {sorted(content)}, expected 'data' and 'labels' of {title}")
    return planes(content["data"], content["labels"], path, first_label=first_label)


def read_cifar_binary(path: Path) -> Batch:
    """Read one binary batch of CIFAR-10: records of a label (1 byte) and 32x32 RGB planes (3,072 bytes).

    Returns:
        Images (n, 3, 32, 32) and labels 0 to 9.

    Raises:
        DataError: the file cannot be read, is empty or no whole number of records, or has a label above 9.
    """
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as cause:
        raise DataError(f"{path} cannot be read ({cause.strerror}); check the file") from None
    if not len(content) or len(content) % _RECORD:
        raise DataError(
            f"{path} has {len(content)} bytes, expected records of {_RECORD} (CIFAR-10); it is truncated or another set"
        )
    records = content.reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= _CLASSES:
        raise DataError(f"{path} has the label {labels.max()}, expected 0 to 9 (CIFAR-10); it is another set")
    return planes(records[:, 1:], labels, path)


CIFAR10_PYTHON: Final = Batches(
    "CIFAR-10, Python version",
    {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    ("cifar-10-batches-py",),
    partial(read_pickled, title="CIFAR-10"),
)
CIFAR10_BINARY: Final = Batches(
    "CIFAR-10, binary version",
    {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    ("cifar-10-batches-bin",),
    read_cifar_binary,
)
