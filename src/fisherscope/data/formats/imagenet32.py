"""Downsampled ImageNet at 32x32 (Chrabaszcz et al. 2017, arXiv 1707.08819), in the format of CIFAR-10's pickles."""

from __future__ import annotations

from functools import partial
from typing import Final

from fisherscope.data.formats.batches import Batches
from fisherscope.data.formats.cifar import read_pickled

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
    partial(read_pickled, title="ImageNet32", first_label=1),  # the file counts from 1
)
