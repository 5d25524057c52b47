"""Downsampled ImageNet at 32x32: ``train_data_batch_1`` to ``_10`` and ``val_data``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fisherscope.core.errors import DataError
from fisherscope.data.formats.batches import Batch, Batches, planes
from fisherscope.data.pickles import read_plain_pickle


def read_imagenet32(path: Path) -> Batch:
    """Read one pickled batch of ImageNet32 (Chrabaszcz et al. 2017, arXiv 1707.08819) without trusting the pickle.

    Returns:
        Images (n, 3, 32, 32) and labels 0 to 999 (the file counts from 1).

    Raises:
        DataError: see :func:`~fisherscope.data.pickles.read_plain_pickle`, or other content than 'data' and 'labels'.
    """
    content = read_plain_pickle(path)
    if not {"data", "labels"} <= content.keys():
        raise DataError(f"{path} holds {sorted(content)}, expected 'data' and 'labels' of ImageNet32")
    return planes(content["data"], content["labels"], path, first_label=1)


_VALIDATION: Final = ("val_data",)
# The labels of the real test set were never published: as everywhere, the validation images are what is tested on.
IMAGENET32: Final = Batches(
    "ImageNet32",
    {
        "train": tuple(f"train_data_batch_{i}" for i in range(1, 11)),
        "test": _VALIDATION,
        "val": _VALIDATION,
    },
    ("Imagenet32_train", "Imagenet32_val"),
    read_imagenet32,
)
