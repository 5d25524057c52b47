"""Patches of photographs, split by region so that train and test share no pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

PATCH: Final = 16
BLOCK: Final = 64
TRAIN_STRIDE: Final = 8


@dataclass(frozen=True)
class Patch:
    """A square cut from a photograph.

    Attributes:
        pixels: (C, 16, 16), uint8.
        name: ``r<row>-c<column>`` of its upper left pixel.
        block: ``<row>-<column>`` of the block it lies in.
    """

    pixels: NDArray[np.uint8]
    name: str
    block: str


def cut_patches(photo: NDArray[np.uint8], split: str) -> Iterator[Patch]:
    """Yield the 16x16 patches of one split of a photograph, in reading order of blocks and of patches in a block.

    The photograph is divided into 64x64 blocks, coloured like a chessboard: the even ones are train, the odd ones
    test, and no patch leaves its block. Train patches overlap (every 8 pixels, 49 a block); test patches do not
    (every 16 pixels, 16 a block), so that intervals over them are not too narrow. What is left over at the right and
    lower edge is not used.

    Args:
        photo: (C, H, W), uint8.
        split: ``train`` or ``test``.
    """
    parity, stride = (0, TRAIN_STRIDE) if split == "train" else (1, PATCH)
    offsets = range(0, BLOCK - PATCH + 1, stride)
    for block_row in range(photo.shape[1] // BLOCK):
        for block_column in range(photo.shape[2] // BLOCK):
            if (block_row + block_column) % 2 != parity:
                continue
            for r in (block_row * BLOCK + o for o in offsets):
                for c in (block_column * BLOCK + o for o in offsets):
                    pixels = photo[:, r : r + PATCH, c : c + PATCH]
                    yield Patch(pixels, f"r{r:04d}-c{c:04d}", f"{block_row}-{block_column}")
