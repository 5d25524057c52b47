"""Statistics of images that need no model: levels, smoothness, traces of JPEG."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Array = NDArray[np.float64]

_BLOCK: Final = 8
_LUMA: Final = np.array([0.299, 0.587, 0.114])
_CHUNK: Final = 512


def level_statistics(x: Images) -> dict[str, Any]:
    """Return what is known of the levels of images (n, C, H, W) as JSON values.

    Returns:
        n, the mean and standard deviation of all levels, the least and the greatest one, the share of levels that are
        0 or 255, and the mean total variation of an image, see :func:`total_variation`, in levels a pair of
        neighbours.
    """
    return {
        "n": len(x),
        "mean": float(x.mean(dtype=np.float64)),
        "deviation": float(x.std(dtype=np.float64)),
        "least": int(x.min()),
        "greatest": int(x.max()),
        "saturated": float(((x == 0) | (x == 255)).mean()),
        "total_variation": float(total_variation(x).mean() / neighbours(x.shape[1:])),
    }


def neighbours(shape: tuple[int, ...]) -> int:
    """Return the number of pairs of horizontal and vertical neighbours in images of shape (C, H, W)."""
    channels, height, width = shape
    return channels * (height * (width - 1) + (height - 1) * width)


def total_variation(x: Images) -> NDArray[np.int64]:
    """Return sum |x_i - x_j| over all horizontal and vertical neighbours i, j of each image, (n,), in levels."""
    return np.concatenate([_variation(x[i : i + _CHUNK].astype(np.int64)) for i in range(0, len(x), _CHUNK)])


def _variation(x: NDArray[np.int64]) -> NDArray[np.int64]:
    total: NDArray[np.int64] = sum(np.abs(np.diff(x, axis=axis)).sum((1, 2, 3)) for axis in (2, 3))
    return total


def block_excess(x: Images) -> dict[str, Any] | None:
    """Return how much neighbours differ more across the borders of 8x8 blocks, where JPEG cuts, than beside them.

    With D_i(j) the mean of |x(., j + 1) - x(., j)| over the rows and channels of image i, the excess of a border
    j (j + 1 a multiple of 8) is e_i(j) = D_i(j) - (D_i(j - 1) + D_i(j + 1)) / 2: a trend across the image, such as an
    object in its middle, cancels. Columns and rows are treated alike; the result is the mean of e_i over borders,
    directions and images, relative to the mean of D_i. The same is measured for the seven other phases of the block
    grid, as a control. An image that was resampled after its compression has its borders elsewhere: see
    :func:`fine_detail`.

    Args:
        x: images (n, C, H, W).

    Returns:
        excess (percent), its standard error over images, and ``phases``, the excess of j + 1 = 0 ... 7 modulo 8; None
        for images without a border that has neighbours on both sides.
    """
    if max(x.shape[2:]) < _BLOCK + 2:
        return None
    parts = [_phase_excess(x[i : i + _CHUNK].astype(np.float64)) for i in range(0, len(x), _CHUNK)]
    excess, level = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    scale = level.mean()
    if scale == 0:
        return None
    phases = 100 * excess.mean(0) / scale
    error = 100 * excess[:, 0].std(ddof=1) / np.sqrt(len(x)) / scale if len(x) > 1 else 0.0
    return {"excess": float(phases[0]), "standard_error": float(error), "phases": phases.tolist()}


def _phase_excess(x: Array) -> tuple[Array, Array]:
    """Return the excess of every image and phase, (n, 8), and the mean of D_i, (n,)."""
    sums, counts = np.zeros((len(x), _BLOCK)), np.zeros(_BLOCK)
    levels = []
    for axis in (2, 3):
        others = (1, 5 - axis)
        differences = np.abs(np.diff(x, axis=axis)).mean(others)
        levels.append(differences.mean(1))
        second = differences[:, 1:-1] - (differences[:, :-2] + differences[:, 2:]) / 2
        phase = (np.arange(1, differences.shape[1] - 1) + 1) % _BLOCK
        for p in range(_BLOCK):
            sums[:, p] += second[:, phase == p].sum(1)
            counts[p] += (phase == p).sum()
    return sums / np.maximum(counts, 1), np.mean(levels, axis=0)


def fine_detail(x: Images) -> dict[str, float | None]:
    """Return how much fine detail images have, in brightness and in colour.

    Detail of a plane is the mean square of its second differences along rows and columns over its variance; the median
    over the images whose plane is not flat. JPEG usually halves the resolution of colour (4:2:0), so weak detail of
    colour beside brightness is a trace that also survives a later reduction in size.

    Returns:
        ``luma`` of ITU-R 601, or of the one channel, and ``chroma``, the mean of B - Y and R - Y; None where all planes
        are flat or there is one channel.
    """
    parts: dict[str, list[Array]] = {"luma": [], "chroma": []}
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK].astype(np.float64)
        if part.shape[1] == 3:
            luma = np.einsum("nchw,c->nhw", part, _LUMA)
            parts["luma"].append(_detail(luma[:, None]))
            parts["chroma"].append(_detail(np.stack([part[:, 2] - luma, part[:, 0] - luma], axis=1)))
        else:
            parts["luma"].append(_detail(part))
    return {name: float(np.median(np.concatenate(v))) if v and sum(map(len, v)) else None for name, v in parts.items()}


def _detail(planes: Array) -> Array:
    """Return the detail of the images whose planes (n, k, H, W) are not flat, (at most n,)."""
    energy = sum(np.square(np.diff(planes, n=2, axis=axis)).mean((2, 3)).sum(1) for axis in (2, 3)) / 2
    variance = planes.var((2, 3)).sum(1)
    kept = variance > 1e-9
    detail: Array = energy[kept] / variance[kept]
    return detail
