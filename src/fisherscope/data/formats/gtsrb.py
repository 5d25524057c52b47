"""GTSRB: folders of a class each with ``TTTTT_FFFFF.ppm`` (track and frame), and the test images."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.data.formats.base import first_folder
from fisherscope.data.images import open_image, stretch_image
from fisherscope.data.samples import ReadOptions, Samples, Shape

_SHAPE: Final[Shape] = (3, 32, 32)
_DIGITS: Final = "[0-9]" * 5
_FRAME: Final = re.compile(r"^(\d{5})/(\d{5})_(\d{5})\.ppm$")
_TRAIN: Final = ("", "Training", "Final_Training/Images", "GTSRB/Training", "GTSRB/Final_Training/Images")
_TEST: Final = ("Final_Test/Images", "GTSRB/Final_Test/Images")
_CLASSES: Final = "GT-final_test.csv"


class Gtsrb:
    """German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012): whole images, bilinear to 32x32."""

    title = "GTSRB"
    looked_for = "00000/00000_00000.ppm (also in Final_Training/Images), Final_Test/Images/00000.ppm"

    def splits(self, folder: Path) -> tuple[str, ...]:
        found = {"train": _train(folder), "test": _test(folder)}
        return tuple(split for split, place in found.items() if place)

    def read(self, folder: Path, split: str, name: str, options: ReadOptions) -> Samples:
        images = (_train(folder) if split == "train" else _test(folder)) or folder
        pattern = f"{_DIGITS}/*.ppm" if split == "train" else "*.ppm"
        files = sorted(p.relative_to(images).as_posix() for p in images.glob(pattern))
        chosen = [files[i] for i in options.rows(len(files))]
        shape = options.resize or _SHAPE
        x = np.stack([stretch_image(open_image(str(images / f), images / f), shape) for f in chosen])
        if split == "test":
            return Samples.from_array(x, chosen, name, _test_labels(folder, images, chosen))
        frames = [_frame(images, f) for f in chosen]
        labels = np.array([int(sign) for sign, _ in frames], dtype=np.int64)
        # the names that the Parquet form of this set has, so that both give one interval
        clusters = [f"class{int(sign):02d}-track{track}" for sign, track in frames]
        return Samples.from_array(x, chosen, name, labels, clusters)


def _train(folder: Path) -> Path | None:
    return first_folder(folder, _TRAIN, f"{_DIGITS}/{_DIGITS}_{_DIGITS}.ppm")


def _test(folder: Path) -> Path | None:
    return first_folder(folder, _TEST, "*.ppm")


def _frame(images: Path, file: str) -> tuple[str, str]:
    match = _FRAME.match(file)
    if match is None:
        raise DataError(f"{images / file} is not called TTTTT_FFFFF.ppm (track and frame); it is no image of GTSRB")
    return match[1], match[2]


def _test_labels(folder: Path, images: Path, files: list[str]) -> NDArray[np.int64] | None:
    """Return the classes of test images from ``GT-final_test.csv``, which is a download of its own; else None."""
    places = (folder, images, images.parent, images.parent.parent)
    path = next((p / _CLASSES for p in places if (p / _CLASSES).is_file()), None)
    if path is None:
        return None
    classes = dict(_rows(path))
    missing = [f for f in files if f not in classes]
    if missing:
        raise DataError(f"{path} has no class for {missing[0]} ({len(missing)} files); download it again")
    return np.array([classes[f] for f in files], dtype=np.int64)


def _rows(path: Path) -> Iterator[tuple[str, int]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter=";"):
                yield row["Filename"], int(row["ClassId"])
    except (KeyError, ValueError, TypeError, OSError, csv.Error) as cause:
        raise DataError(f"{path} is no list 'Filename;...;ClassId' of GTSRB ({cause}); download it again") from None
