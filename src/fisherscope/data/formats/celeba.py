"""CelebA, aligned and cropped: ``img_align_celeba/000001.jpg`` and so on, shrunk as in the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.data.formats.base import first_folder
from fisherscope.data.images import ImageArray, open_image, stretch_image
from fisherscope.data.samples import ReadOptions, Samples, Shape

CROP: Final = (15, 40, 163, 188)
"""Left, upper, right and lower edge of the square that is kept of the 178x218 frame."""

_FRAME: Final = (178, 218)
_SHAPE: Final[Shape] = (3, 32, 32)
_IMAGES: Final = ("img_align_celeba", "Img/img_align_celeba")
_PARTITION: Final = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")
_SPLITS: Final = ("train", "val", "test")
# The first number of each part of the official partition, which list_eval_partition.txt spells out file by file.
_FIRST: Final = (1, 162771, 182638)
_LAST: Final = 202599


class CelebA:
    """CelebA (Liu et al. 2015) with its official partition."""

    title = "CelebA"
    looked_for = "img_align_celeba/*.jpg"

    def splits(self, folder: Path) -> tuple[str, ...]:
        return _SPLITS if _images(folder) else ()

    def read(self, folder: Path, split: str, name: str, options: ReadOptions) -> Samples:
        images = _images(folder) or folder
        names = _members(folder, images, split)
        if not names:
            raise DataError(f"{images} holds no image of split '{split}' of CelebA; unpack the whole archive")
        chosen = [names[i] for i in options.rows(len(names))]
        shape = options.resize or _SHAPE
        x = np.stack([_read_face(images / n, shape) for n in chosen])
        return Samples.from_array(x, chosen, name)


def _images(folder: Path) -> Path | None:
    return first_folder(folder, _IMAGES, "*.jpg")


def _members(folder: Path, images: Path, split: str) -> list[str]:
    """Return the names of a split's files that are there, sorted: by the partition file, else by number."""
    present = sorted(p.name for p in images.glob("*.jpg"))
    file = next((folder / place for place in _PARTITION if (folder / place).is_file()), None)
    parts = _by_file(file) if file else {name: _by_number(images / name) for name in present}
    return [name for name in present if parts.get(name) == split]


def _by_file(path: Path) -> dict[str, str]:
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {name: _SPLITS[("0", "1", "2").index(part)] for name, part in lines}
    except (OSError, ValueError) as cause:
        raise DataError(f"{path} is no partition file ({cause}); expected lines such as '000001.jpg 0'") from None


def _by_number(path: Path) -> str:
    number = int(path.stem) if path.stem.isdecimal() else 0
    if not _FIRST[0] <= number <= _LAST:
        raise DataError(
            f"{path} is not called by a number of CelebA (000001 to {_LAST}), so that its split is unknown; put "
            "list_eval_partition.txt beside the folder of images"
        )
    return _SPLITS[int(np.searchsorted(_FIRST, number, side="right")) - 1]


def _read_face(path: Path, shape: Shape) -> ImageArray:
    image = open_image(str(path), path)
    if image.size != _FRAME:
        raise DataError(f"{path} is {image.size[0]}x{image.size[1]}, expected the aligned 178x218 frame of CelebA")
    return stretch_image(image.crop(CROP), shape)
