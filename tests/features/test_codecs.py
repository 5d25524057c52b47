"""Code lengths against files written by other means, and what cannot be coded."""

import io
import math
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.core.keys import sample_keys
from fisherscope.detectors import make_detector
from fisherscope.features.codecs import CODECS, IMAGE_CODECS, CodecBytes
from fisherscope.features.extractors import Request


class Shaped(torch.nn.Module):
    """Something with the shape of its data."""

    def __init__(self, *shape):
        super().__init__()
        self.data_shape = shape
        self.scale = torch.nn.Parameter(torch.ones(()))


def request_of(x, group_size=1):
    return Request(Shaped(*x.shape[1:]), None, x, sample_keys(x), group_size)


@pytest.fixture(params=[(1, 8, 8), (3, 9, 7), (3, 32, 32), (1, 1, 1)])
def images(request):
    return np.random.default_rng(0).integers(0, 256, (4, *request.param), dtype=np.uint8)


def test_png_and_zlib_are_the_sizes_of_files(images):
    sizes = CodecBytes().extract(request_of(images, 2))["codec_bytes"]
    assert sizes.shape == (2, 2, 4) and sizes.dtype == np.int64
    flat = sizes.reshape(4, 4)
    for image, row in zip(images, flat, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)).save(buffer, "png", optimize=True)
        assert row[0] == len(buffer.getvalue())
        assert row[3] == len(zlib.compress(image.tobytes(), 9))


@pytest.mark.parametrize(("codec", "kind"), [("webp", "WEBP"), ("jpeg2000", "JPEG2000")])
def test_the_other_image_codecs_are_lossless(images, codec, kind, monkeypatch):
    written = []

    class Kept(io.BytesIO):
        def getbuffer(self):
            written.append(self.getvalue())
            return super().getbuffer()

    monkeypatch.setattr("fisherscope.features.codecs.io.BytesIO", Kept)
    for image in images:
        assert IMAGE_CODECS[codec](image) == len(written[-1])
        opened = Image.open(io.BytesIO(written[-1]), formats=[kind])
        back = np.asarray(opened.convert("L" if len(image) == 1 else "RGB"))
        np.testing.assert_array_equal(np.moveaxis(np.atleast_3d(back), 2, 0), image)


@pytest.mark.parametrize("codec", CODECS)
def test_constant_images_are_simpler_than_noise(codec):
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert CODECS[codec](np.full_like(noise, 7)) < CODECS[codec](noise) / 10


def test_text_goes_through_zlib_alone_whatever_its_integer_dtype():
    text = np.frombuffer(b"ababababababababthe quick brown ", dtype=np.uint8).reshape(2, 16)
    extractor = CodecBytes()
    for dtype in (np.uint8, np.int64):
        sizes = extractor.extract(request_of(text.astype(dtype)))["codec_bytes"]
        assert sizes.ravel().tolist() == [len(zlib.compress(row.tobytes(), 9)) for row in text]
    assert extractor.columns(Shaped(16)) == {"codec_bytes": ("zlib",)}
    assert extractor.settings(Shaped(16))["codec_bytes"]["zlib"] == zlib.ZLIB_RUNTIME_VERSION


@pytest.mark.parametrize("x", [np.zeros((2, 1, 4, 4)), np.full((2, 5), 256), np.full((2, 5), -1)])
def test_samples_that_are_no_bytes(x):
    with pytest.raises(DataError, match="expected one array of whole numbers from 0 to 255"):
        CodecBytes().extract(request_of(x))


def test_input_complexity_by_hand(images):
    from fisherscope.core.table import Card, FeatureTable

    sizes = CodecBytes().extract(request_of(images, 2))["codec_bytes"]
    log_p = -np.array([[500.0, 700.0], [100.0, 90.0]])
    ids = (("a", "b"), ("c", "d"))
    keys = np.arange(4, dtype=np.uint64).reshape(2, 2)
    card = Card("m", "m", "d", "d", 2, 0, "float64")
    table = FeatureTable({"log_p": log_p, "codec_bytes": sizes}, {"codec_bytes": tuple(CODECS)}, ids, keys, card)
    for j, codec in enumerate(CODECS):
        scores = make_detector(f"input-complexity-{codec}").fit(table).score(table)
        want = [sum(-log_p[i, b] - math.log(2) * 8 * int(sizes[i, b, j]) for b in range(2)) / 2 for i in range(2)]
        np.testing.assert_allclose(scores, want, rtol=1e-12)
    text = FeatureTable({"log_p": log_p, "codec_bytes": sizes[..., 3:]}, {"codec_bytes": ("zlib",)}, ids, keys, card)
    with pytest.raises(DataError, match="needs code lengths of png, the table has those of zlib"):
        make_detector("input-complexity-png").fit(text)
