"""Image files to uint8 arrays: strict by default, converted only on request."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fisherscope.core.errors import DataError
from fisherscope.data.samples import Shape, describe_shape

ImageArray = NDArray[np.uint8]

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
# Naming the decoders keeps Pillow from trying the others (PostScript among them) on a file with an innocent suffix.
_FORMATS: Final = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
OTHER_SUFFIXES: Final = frozenset(
    {".gif", ".apng", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".tga", ".pbm", ".pnm", ".ico",
     ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf"}
)  # fmt: skip
"""Suffixes of images that are not read."""

_MOST_PROBLEMS: Final = 10
_PHOTOMETRIC: Final = 262
"""TIFF's tag for what its numbers mean."""
_WHITE_IS_ZERO: Final = 0
_MODES: Final = {"L": 1, "RGB": 3}
_CONVERTIBLE: Final = frozenset({"1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
# SyntaxError and struct.error are what Pillow's PNG and TIFF readers raise on broken chunks.
_BROKEN: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def decode_images(sources: Iterable[tuple[str, bytes | Path]], count: int, resize: Shape | None = None) -> ImageArray:
    """Decode image files that share one mode and size.

    Modes L and RGB are taken as they are; every other mode is an error unless ``resize`` asks for a conversion. The
    orientation that a camera wrote into the file is applied.

    Args:
        sources: a name for messages and the file's bytes or path, for every image.
        count: number of sources.
        resize: (C, H, W) with C 1 or 3: convert every image to that shape, see :func:`resize_image`.

    Returns:
        Images (count, C, H, W), uint8.

    Raises:
        DataError: corrupt, oversized or unsupported images, or some that differ from the first; what is wrong is told
            of the first of them, and up to ten are named, so that they can be removed together.
    """
    stack: ImageArray | None = None
    first = ""
    problems: dict[str, DataError] = {}
    for row, (name, source) in enumerate(sources):
        try:
            image = _decode(name, source, resize)
            if stack is None:
                first, stack = name, np.empty((count, *image.shape), np.uint8)
            if image.shape != stack.shape[1:]:
                raise DataError(
                    f"{name} is {describe_shape(image.shape)} but {first} is {describe_shape(stack.shape[1:])}; "
                    "all images of a set must have one size and mode; use --resize to convert them"
                )
        except DataError as problem:
            problems[name] = problem
            if len(problems) == _MOST_PROBLEMS:
                break
        else:
            stack[row] = image
    if problems:
        raise DataError(_all_of(problems))
    if stack is None:
        raise DataError("no images were given, expected at least one")
    return stack


def _all_of(problems: Mapping[str, DataError]) -> str:
    told, *others = problems.items()
    if not others:
        return str(told[1])
    stopped = "; there may be more" if len(problems) == _MOST_PROBLEMS else ""
    return f"{told[1]}; nor can these be used: {', '.join(name for name, _ in others)}{stopped}"


def resize_array(images: ImageArray, resize: Shape | None) -> ImageArray:
    """Convert images (N, C, H, W) to shape ``resize``; see :func:`resize_image`."""
    if resize is None or images.shape[1:] == resize:
        return images
    return map_images(images, lambda image: resize_image(image, resize))


def map_images(images: ImageArray, change: Callable[[Image.Image], Image.Image]) -> ImageArray:
    """Return images (N, C, H, W), uint8, C 1 or 3, each after a change that Pillow makes."""
    channels_last = images[:, 0] if images.shape[1] == 1 else np.moveaxis(images, 1, -1)
    return np.stack([_to_array(change(Image.fromarray(a))) for a in np.ascontiguousarray(channels_last)])


def resize_image(image: Image.Image, shape: Shape, name: str = "image") -> Image.Image:
    """Convert an image to a shape.

    The largest centred crop of the wanted aspect is resampled with Pillow's bilinear filter, which averages over
    its whole footprint when it shrinks. Grey is ITU-R 601 luma. Transparent pixels are laid over white, 16-bit grey
    keeps its upper 8 bits, CMYK is converted without a colour profile.

    Args:
        image: the image, any mode that Pillow can turn into 8 bits a channel.
        shape: (C, H, W), C 1 or 3.
        name: for the message.

    Raises:
        DataError: a mode without a known scale (32-bit integer or floating grey).
    """
    channels, height, width = shape
    converted = _to_8_bit(image, name).convert("L" if channels == 1 else "RGB")
    return ImageOps.fit(converted, (width, height), method=Image.Resampling.BILINEAR)


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Turn Pillow's warning about an image that unpacks to a suspicious size into an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def open_image(name: str, source: bytes | Path) -> Image.Image:
    """Return a decoded image, any mode, turned as the camera says.

    Args:
        name: for messages.
        source: the file's bytes or path.

    Raises:
        DataError: it is corrupt, oversized, of an unsupported format, or holds several images.
    """
    try:
        with (
            bombs_are_errors(),
            Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=_FORMATS) as file,
        ):
            frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
            file.load()
            image = ImageOps.exif_transpose(file)
            # of 8 bits Pillow turns such negatives itself
            if image.mode.startswith("I;16") and getattr(file, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
                image = Image.fromarray(np.uint16(0xFFFF) - np.asarray(image).astype(np.uint16))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as cause:
        raise DataError(f"{name} unpacks to a suspicious size ({cause}); shrink it first") from None
    except _BROKEN as cause:
        raise DataError(f"{name} is corrupt or not an image ({cause}); remove or replace it") from None
    if frames > 1:
        raise DataError(f"{name} holds {frames} images, expected one a file; split it into single images")
    return image


def stretch_image(image: Image.Image, shape: Shape) -> ImageArray:
    """Return the whole image resampled (bilinear) to a shape (C, H, W), whatever its aspect, uint8."""
    channels, height, width = shape
    converted = image.convert("L" if channels == 1 else "RGB")
    return _to_array(converted.resize((width, height), Image.Resampling.BILINEAR))


def _decode(name: str, source: bytes | Path, resize: Shape | None) -> ImageArray:
    image = open_image(name, source)
    if resize is not None:
        return _to_array(resize_image(image, resize, name))
    if image.mode not in _MODES:
        raise DataError(
            f"{name} has mode {image.mode}, expected L (8-bit grey) or RGB; convert it, or use --resize, which "
            "converts modes too"
        )
    return _to_array(image)


def _to_array(image: Image.Image) -> ImageArray:
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode not in _MODES and image.mode not in _CONVERTIBLE:
        raise DataError(f"{name} has mode {image.mode}, whose scale is unknown; convert it to 8-bit grey or RGB first")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image
