"""Heat maps over images: where a sample's novelty lies."""

from __future__ import annotations

from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.report.theme import label_text, theme

RAISES: Final = "#D55E00"
LOWERS: Final = "#0072B2"
ROBUST: Final = 99.0
"""Percentile of a map's magnitude that gets the full colour: one extreme pixel does not hide the others."""

_FADED: Final = 0.55


def display_image(sample: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a sample (C, H, W) as RGB (H, W, 3): levels 0..255 of 1 or 3 channels as they are, others stretched."""
    if sample.ndim != 3:
        raise DataError(f"a sample has shape {sample.shape}, expected an image (C, H, W)")
    if len(sample) in (1, 3) and sample.min() >= 0 and sample.max() <= 255 and sample.max() > 1:
        levels = np.rint(sample).astype(np.uint8)
    else:
        mean = sample.astype(np.float64).mean(0, keepdims=True)
        levels = np.rint(255 * (mean - mean.min()) / (np.ptp(mean) or 1.0)).astype(np.uint8)
    return np.broadcast_to(levels.transpose(1, 2, 0), (*sample.shape[1:], 3)).copy()


def full_colour(heat: NDArray[np.float64]) -> float:
    """Return the magnitude that gets the full colour."""
    return float(np.percentile(np.abs(heat), ROBUST)) or float(np.abs(heat).max()) or 1.0


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a grey, faded image under the colours of its heat map.

    Args:
        image: RGB (H, W, 3), see :func:`display_image`.
        heat: (H, W); orange raises the score, blue lowers it, nothing is 0.
    """
    grey = image.astype(np.float64).mean(2, keepdims=True)
    ground = 255 - _FADED * (255 - grey)
    strength = np.clip(np.abs(heat) / full_colour(heat), 0, 1)[..., None]
    colours = np.where(heat[..., None] >= 0, _rgb(RAISES), _rgb(LOWERS))
    blended: NDArray[np.uint8] = np.rint((1 - strength) * ground + strength * colours).astype(np.uint8)
    return blended


def _rgb(colour: str) -> NDArray[np.float64]:
    return 255 * np.asarray(mpl.colors.to_rgb(colour))


def heatmap_figure(image: NDArray[np.uint8], heat: NDArray[np.float64], title: str, label: str) -> Figure:
    """Draw an image beside its heat map, with the scale of the map.

    Args:
        image: RGB (H, W, 3).
        heat: (H, W).
        title: above both.
        label: of the scale: what the map is.
    """
    top = full_colour(heat)
    signed = bool((heat < 0).any())
    colours = ([LOWERS] if signed else []) + ["#ffffff", RAISES]
    scale = mpl.cm.ScalarMappable(
        Normalize(-top if signed else 0, top), LinearSegmentedColormap.from_list("novelty", colours)
    )
    with theme():
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        figure.suptitle(label_text(title), fontsize=mpl.rcParams["axes.titlesize"])
        axes = figure.subplots(1, 2)
        for one, pixels in zip(axes, (image, overlay(image, heat)), strict=True):
            one.imshow(pixels, interpolation="nearest")
            one.set(xticks=[], yticks=[])
            one.spines[:].set(visible=True)
        bar = figure.colorbar(scale, ax=axes[1], ticks=[-top, 0, top] if signed else [0, top], format="%.2g")
        bar.set_label(label)
    return figure
