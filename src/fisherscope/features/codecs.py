"""How many bytes lossless codecs need for each sample: complexity without any model."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features
from torch import nn
from torch.utils import _pytree as pytree

from fisherscope.core.errors import DataError
from fisherscope.features.extractors import Blocks, Extractor, Request


def png_bytes(image: NDArray[np.uint8]) -> int:
    """Return the size of the PNG file of an image (C, H, W), C 1 or 3, filters and Huffman tables optimised."""
    return _file_size(image, format="PNG", optimize=True)


def webp_bytes(image: NDArray[np.uint8]) -> int:
    """Return the size of the lossless WebP file of an image; like FLIF it predicts and codes entropies in context."""
    return _file_size(image, format="WEBP", lossless=True, quality=100, method=4)


def jpeg2000_bytes(image: NDArray[np.uint8]) -> int:
    """Return the size of the lossless JPEG 2000 code stream of an image (5/3 wavelet)."""
    # OpenJPEG halves the sides five times unless told otherwise, and refuses an image too small for that.
    resolutions = min(6, int(np.log2(max(1, min(image.shape[1:])))) + 1)
    return _file_size(image, format="JPEG2000", irreversible=False, num_resolutions=resolutions, no_jp2=True)


def zlib_bytes(sample: NDArray[np.uint8]) -> int:
    """Return the size of a sample's raw bytes after zlib (Deflate) at level 9."""
    return len(zlib.compress(np.ascontiguousarray(sample).tobytes(), 9))


IMAGE_CODECS: Final[Mapping[str, Callable[[NDArray[np.uint8]], int]]] = {
    "png": png_bytes,
    "webp": webp_bytes,
    "jpeg2000": jpeg2000_bytes,
}

CODECS: Final[Mapping[str, Callable[[NDArray[np.uint8]], int]]] = {**IMAGE_CODECS, "zlib": zlib_bytes}


class CodecBytes(Extractor):
    """``codec_bytes`` (N, B, codecs), whole bytes, one named column a codec.

    Grey and RGB images, as the model's ``data_shape`` says, go through every codec of this Pillow build; other
    samples, such as windows of text, through zlib alone.
    """

    blocks = ("codec_bytes",)

    def extract(self, request: Request) -> Blocks:
        samples = _as_bytes(request.x)
        codecs = [CODECS[name] for name in codec_names(request.module)]
        sizes = np.array([[codec(sample) for codec in codecs] for sample in samples], dtype=np.int64)
        return {"codec_bytes": request.grouped(sizes)}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {"codec_bytes": codec_names(module)}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        versions = {"pillow": PIL.__version__, "zlib": zlib.ZLIB_RUNTIME_VERSION}
        return {"codec_bytes": {"codecs": list(codec_names(module)), **versions}}


def codec_names(module: nn.Module) -> tuple[str, ...]:
    """Return the codecs that a model's samples can go through."""
    shape: tuple[int, ...] = getattr(module, "data_shape", ())
    if len(shape) != 3 or shape[0] not in (1, 3):
        return ("zlib",)
    missing = {name for name, part in (("webp", "webp"), ("jpeg2000", "jpg_2000")) if not features.check(part)}
    return tuple(name for name in CODECS if name not in missing)


def _as_bytes(x: Any) -> NDArray[np.uint8]:
    leaves = pytree.tree_leaves(x)
    if len(leaves) != 1 or leaves[0].dtype.kind not in "iu" or leaves[0].min() < 0 or leaves[0].max() > 255:
        kinds = ", ".join(str(leaf.dtype) for leaf in leaves)
        raise DataError(
            f"input complexity was given samples of {kinds}, expected one array of whole numbers from 0 to 255: "
            "a codec counts bytes; give 8-bit images or bytes of text, or use another detector"
        )
    found: NDArray[np.uint8] = leaves[0].astype(np.uint8)
    return found


def _file_size(image: NDArray[np.uint8], **options: Any) -> int:
    rows = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rows)).save(buffer, **options)
    return buffer.getbuffer().nbytes
