"""Images with a pasted patch, whose place is known: what a heat map has to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.keys import sample_keys

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Pasted:
    """Images with a patch each.

    Attributes:
        x: (n, C, H, W).
        masks: where the patch lies, (n, H, W).
    """

    x: Images
    masks: NDArray[np.bool_]


def paste(hosts: Images, donors: Images, size: int, seed: int) -> Pasted:
    """Paste a square of each donor into the host of the same number.

    The two places are drawn by (seed, key of the host), so that a host gets its patch in the same place whatever the
    donors are: the control differs in what is pasted alone.

    Args:
        hosts: (n, C, H, W).
        donors: (n or more, C, H, W).
        size: side of the square.
        seed: of the places.
    """
    height, width = hosts.shape[2:]
    if len(donors) < len(hosts) or size >= min(height, width):
        raise DataError(
            f"{len(hosts)} hosts of {height}x{width} need as many donors and a patch smaller than themselves; given "
            f"are {len(donors)} donors and a patch of {size}x{size}"
        )
    x, masks = hosts.copy(), np.zeros((len(hosts), height, width), dtype=bool)
    for i, key in enumerate(sample_keys(hosts)):
        rng = np.random.default_rng([seed, int(key)])
        (top, left), (y, z) = (rng.integers(0, [height - size + 1, width - size + 1]) for _ in range(2))
        x[i, :, top : top + size, left : left + size] = donors[i, :, y : y + size, z : z + size]
        masks[i, top : top + size, left : left + size] = True
    return Pasted(x, masks)
