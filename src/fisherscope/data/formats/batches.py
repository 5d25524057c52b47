"""Sets that come as a few files of many images each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.data.images import ImageArray, resize_array
from fisherscope.data.samples import ReadOptions, Samples, describe_shape


@dataclass(frozen=True)
class Batch:
    """The images of one file, uint8 (n, C, H, W), and their labels (n,), or None where there are none."""

    images: ImageArray
    labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class Batches:
    """A format of files with many images each.

    Attributes:
        title: name of the format.
        files: for every split, its files in order; ``a|b`` is a file that goes by either name.
        inside: subfolders that an archive unpacks to; they are looked into after the folder itself.
        read_file: reads one file, or raises DataError with its name.
    """

    title: str
    files: Mapping[str, Sequence[str]]
    inside: Sequence[str]
    read_file: Callable[[Path], Batch]

    @property
    def looked_for(self) -> str:
        names = [spec.split("|")[0] for specs in self.files.values() for spec in (specs[0], specs[-1])]
        return ", ".join(dict.fromkeys(names))

    def knows(self, path: Path) -> bool:
        """Return whether a file has one of the names of this format."""
        return any(path.name in spec.split("|") for specs in self.files.values() for spec in specs)

    def splits(self, folder: Path) -> Sequence[str]:
        return [split for split, specs in self.files.items() if any(self._find(folder, spec) for spec in specs)]

    def read(self, folder: Path, split: str, name: str, options: ReadOptions) -> Samples:
        found = {spec: self._find(folder, spec) for spec in self.files[split]}
        missing = [spec.replace("|", " or ") for spec, path in found.items() if path is None]
        if missing:
            raise DataError(
                f"{folder} lacks {', '.join(missing)} of the {len(found)} files of split '{split}' of {self.title}; "
                "unpack the whole archive"
            )
        return self.read_files([path for path in found.values() if path], name, options)

    def read_files(self, paths: Sequence[Path], name: str, options: ReadOptions) -> Samples:
        """Read some files in order; samples are called ``file#row``.

        Raises:
            DataError: a file is truncated or foreign, or its images are of another shape than the first one's.
        """
        batches = [self.read_file(path) for path in paths]
        _require_one_shape(paths, batches)
        ends = np.cumsum([len(b.images) for b in batches])
        rows = options.rows(int(ends[-1]))
        # one file at a time, so that a small subset of a large set is not copied as a whole
        own = [
            rows[(rows >= end - len(b.images)) & (rows < end)] - (end - len(b.images))
            for b, end in _pairs(batches, ends)
        ]
        x = np.concatenate(
            [resize_array(b.images[r], options.resize) for b, r in zip(batches, own, strict=True) if len(r)]
        )
        ids = [f"{path.name}#{i}" for path, r in zip(paths, own, strict=True) for i in r]
        labels = [b.labels[r] for b, r in zip(batches, own, strict=True) if b.labels is not None]
        return Samples.from_array(x, ids, name, np.concatenate(labels) if len(labels) == len(batches) else None)

    def _find(self, folder: Path, spec: str) -> Path | None:
        candidates = (folder / place / name for place in ("", *self.inside) for name in spec.split("|"))
        return next((path for path in candidates if path.is_file()), None)


def planes(data: object, labels: object, path: Path, *, first_label: int = 0) -> Batch:
    """Return the batch of rows of 32x32 RGB planes, as CIFAR-10 and ImageNet32 store them.

    Args:
        data: uint8 (n, 3072): all red values of an image, then green, then blue, each row by row.
        labels: n integers.
        path: the file, for messages.
        first_label: the least label of the file, which becomes 0.

    Raises:
        DataError: another dtype or shape, or labels of another kind or number.
    """
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        given = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path} holds {given} as 'data', expected uint8 (n, 3072): 32x32 RGB; it is another set")
    return Batch(data.reshape(-1, 3, 32, 32), whole_labels(labels, len(data), path) - first_label)


def whole_labels(labels: object, count: int, path: Path) -> NDArray[np.int64]:
    """Return ``count`` integer labels (a list, or an array of one axis) as int64.

    Raises:
        DataError: they are of another kind or number.
    """
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        labels = np.array(labels, dtype=np.int64)
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise DataError(f"{path} has no integer label for each of its {count} images; it is damaged, get it again")
    return labels.astype(np.int64)


def _pairs(batches: Sequence[Batch], ends: NDArray[np.intp]) -> Sequence[tuple[Batch, int]]:
    return list(zip(batches, ends.tolist(), strict=True))


def _require_one_shape(paths: Sequence[Path], batches: Sequence[Batch]) -> None:
    shapes = [b.images.shape[1:] for b in batches]
    for path, shape in zip(paths, shapes, strict=True):
        if shape != shapes[0]:
            raise DataError(
                f"{path} holds images {describe_shape(shape)} but {paths[0]} {describe_shape(shapes[0])}; "
                "files of two sets were mixed"
            )
