"""Copies of images that keep their content and lose their finest detail, and images without content.

A detector that tells such copies from their originals reacts to blur, codec or resampling, which data sets differ in
too.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from fisherscope.core.errors import DataError
from fisherscope.data.images import ImageArray, map_images


def blurred(images: ImageArray, radius: float = 1.0) -> ImageArray:
    """Return images (N, C, H, W), uint8, C 1 or 3, after a Gaussian blur of a radius in pixels."""
    return _each(images, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def jpeg_coded(images: ImageArray, quality: int = 75) -> ImageArray:
    """Return images after a trip through JPEG at a quality from 1 to 95, colour at half resolution as is usual."""

    def trip(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        return Image.open(buffer, formats=("JPEG",))

    return _each(images, trip)


def resampled(images: ImageArray, factor: float = 0.5) -> ImageArray:
    """Return images after shrinking by a factor and growing back to their size, both bilinear."""

    def trip(image: Image.Image) -> Image.Image:
        small = [max(1, round(side * factor)) for side in image.size]
        return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)

    return _each(images, trip)


def white_noise(count: int, shape: tuple[int, ...], seed: int) -> ImageArray:
    """Return images whose every value is drawn from 0..255 by itself."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def constant_images(count: int, shape: tuple[int, ...], seed: int) -> ImageArray:
    """Return images of one colour each, drawn from all."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, shape[0], 1, 1), dtype=np.uint8)
    return np.broadcast_to(levels, (count, *shape)).copy()


def _each(images: ImageArray, change: Callable[[Image.Image], Image.Image]) -> ImageArray:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"images are {images.dtype} of shape {images.shape}, expected uint8 (n, 1 or 3, H, W)")
    return map_images(images, change)
