"""SVHN, cropped digits: ``train_32x32.mat``, ``test_32x32.mat`` and ``extra_32x32.mat`` (MATLAB 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.data.formats.batches import Batch, Batches


def read_svhn(path: Path) -> Batch:
    """Read one file of SVHN (Netzer et al. 2011): X, uint8 (32, 32, 3, n), and y (n, 1), where 10 is the digit 0.

    Returns:
        Images (n, 3, 32, 32) and labels 0 to 9.

    Raises:
        DataError: the file is truncated, no MATLAB file, of MATLAB 7.3, or holds other variables.
    """
    content = _load(path)
    x, y = content.get("X"), content.get("y")
    if x is None or y is None:
        found = [key for key in content if not key.startswith("__")]
        raise DataError(f"{path} holds {found or 'no variables'}, expected X and y of SVHN's cropped digits")
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3):
        raise DataError(f"{path} holds X as {x.dtype} {x.shape}, expected uint8 (32, 32, 3, n)")
    if y.size != x.shape[3] or y.dtype.kind not in "iuf" or not np.isin(y, np.arange(1, 11)).all():
        raise DataError(f"{path} holds y as {y.dtype} {y.shape}, expected {x.shape[3]} labels from 1 to 10 (digit 0)")
    images = np.ascontiguousarray(np.moveaxis(x, (3, 2), (0, 1)))
    return Batch(images, y.reshape(-1).astype(np.int64) % 10)


def _load(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path, variable_names=["X", "y"])
    except Exception as cause:  # scipy raises whatever the broken part of the file met
        raise DataError(f"{path} is truncated or not a MATLAB 5 file ({cause}); download it again") from None
    return content


SVHN: Final = Batches(
    "SVHN",
    {split: (f"{split}_32x32.mat",) for split in ("train", "test", "extra")},
    (),
    read_svhn,
)
