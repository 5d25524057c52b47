"""Sets to choose a default on, beside the development pairs: made here, or of a model's own training images.

Five are of other sources than any set of the study: crops of two photographs and handwritten digits that ship with
scikit-learn, letters of fonts that ship with matplotlib, plain shapes, and noise with the spectrum of clouds. Four are
images that the model was trained on, changed so that what they show is no longer what it learnt: means of two, quarters
in another order, upside down, negatives. All are drawn by seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images

from fisherscope.data import Samples

Images = NDArray[np.uint8]
Shape = tuple[int, int, int]
Random = np.random.Generator

_SCALE = 4
"""Letters and shapes are drawn so many times larger, then shrunk by averaging."""
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono-Oblique", "STIXGeneral", "STIXGeneralItalic")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghkmnpqrstuvwxyz"


def made_sets(shape: Shape, n: int, seed: int) -> tuple[Samples, ...]:
    """Return sets of ``n`` images of a shape (C, H, W) that have nothing to do with the model."""
    makers: dict[str, Callable[[Shape, int, Random], Images]] = {
        "photographs": photographs,
        "digits": digits,
        "letters": letters,
        "shapes": shapes,
        "clouds": clouds,
    }
    return tuple(_samples(make(shape, n, _random(name, seed)), name) for name, make in makers.items())


def changed_sets(trained_on: Samples, n: int, seed: int) -> tuple[Samples, ...]:
    """Return sets of ``n`` images that are made of those that the model was trained on."""
    x: Images = trained_on.x
    height, width = x.shape[2] // 2, x.shape[3] // 2

    def some(name: str, count: int) -> Images:
        return x[_random(name, seed).permutation(len(x))[:count]]

    pairs = some("mixed", 2 * n).astype(np.uint16)
    quarters = some("reordered", n)
    top, bottom = quarters[:, :, :height], quarters[:, :, height:]
    reordered = np.concatenate([np.roll(bottom, width, axis=3), np.roll(top, width, axis=3)], axis=2)
    return (
        _samples(((pairs[:n] + pairs[n:]) // 2).astype(np.uint8), "mixed"),
        _samples(reordered, "reordered"),
        _samples(np.ascontiguousarray(some("upside-down", n)[:, :, ::-1]), "upside-down"),
        _samples(255 - some("negatives", n), "negatives"),
    )


def photographs(shape: Shape, n: int, rng: Random) -> Images:
    """Return square crops of a Chinese temple and of a flower, twice to twelve times as large, shrunk."""
    sources = [Image.fromarray(image) for image in load_sample_images().images]

    def one() -> Image.Image:
        source = sources[rng.integers(len(sources))]
        side = int(rng.integers(2 * shape[1], 12 * shape[1]))
        left, top = (int(rng.integers(0, length - side + 1)) for length in source.size)
        return source.crop((left, top, left + side, top + side))

    return _stack([one() for _ in range(n)], shape)


def digits(shape: Shape, n: int, rng: Random) -> Images:
    """Return handwritten digits of 8 x 8 pixels, enlarged, light on dark, in colour between two colours."""
    source = load_digits().images
    drawn = source[rng.permutation(len(source))[:n]] / 16

    def one(ink: NDArray[np.float64]) -> Image.Image:
        dark, light = _two_colours(shape, rng)
        return Image.fromarray((dark + ink[..., None] * (light - dark)).astype(np.uint8))

    return _stack([one(ink) for ink in drawn], shape, Image.Resampling.BICUBIC)


def letters(shape: Shape, n: int, rng: Random) -> Images:
    """Return single letters of several fonts, light on dark, in colour between two colours."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    side = _SCALE * shape[1]

    def one() -> Image.Image:
        dark, light = _two_colours(shape, rng)
        font = ImageFont.truetype(folder / f"{rng.choice(_FONTS)}.ttf", int(side * rng.uniform(0.6, 0.9)))
        image = Image.new("RGB", (side, side), tuple(dark.astype(int)))
        letter = _LETTERS[rng.integers(len(_LETTERS))]
        ImageDraw.Draw(image).text((side / 2, side / 2), letter, tuple(light.astype(int)), font, anchor="mm")
        return image

    return _stack([one() for _ in range(n)], shape)


def shapes(shape: Shape, n: int, rng: Random) -> Images:
    """Return one to four filled ellipses, rectangles and polygons on a plain ground."""
    side = _SCALE * shape[1]

    def colour() -> tuple[int, ...]:
        return tuple(int(v) for v in rng.integers(0, 256, 3))

    def one() -> Image.Image:
        image = Image.new("RGB", (side, side), colour())
        draw = ImageDraw.Draw(image)
        for _ in range(rng.integers(1, 5)):
            corners = np.sort(rng.integers(0, side, (2, 2)), axis=0).ravel().tolist()
            kind = rng.integers(3)
            if kind == 0:
                draw.ellipse(corners, fill=colour())
            elif kind == 1:
                draw.rectangle(corners, fill=colour())
            else:
                draw.polygon([tuple(p) for p in rng.integers(0, side, (rng.integers(3, 6), 2)).tolist()], fill=colour())
        return image

    return _stack([one() for _ in range(n)], shape)


def clouds(shape: Shape, n: int, rng: Random) -> Images:
    """Return noise whose amplitude falls as a power of the frequency, 0.75 to 2, its colours alike in part."""
    channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf

    def one() -> Images:
        noise = rng.standard_normal((channels, height, width)) + 2 * rng.standard_normal((1, height, width))
        field = np.fft.irfft2(np.fft.rfft2(noise) * frequency ** -rng.uniform(0.75, 2), (height, width))
        values = rng.uniform(64, 192) + rng.uniform(15, 60) * field / field.std()
        return values.clip(0, 255).astype(np.uint8)

    return np.stack([one() for _ in range(n)])


def _two_colours(shape: Shape, rng: Random) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a darker and a lighter colour; black and white for grey images."""
    if shape[0] == 1:
        return np.zeros(3), np.full(3, 255.0)
    first, second = rng.uniform(0, 255, (2, 3))
    return (first, second) if first.sum() < second.sum() else (second, first)


def _stack(
    images: list[Image.Image], shape: Shape, resampling: Image.Resampling = Image.Resampling.BOX
) -> Images:
    """Return images as (n, C, H, W)."""
    mode = "L" if shape[0] == 1 else "RGB"
    rows = [np.asarray(image.convert(mode).resize((shape[2], shape[1]), resampling)) for image in images]
    return np.ascontiguousarray(np.stack(rows).reshape(len(rows), *shape[1:], shape[0]).transpose(0, 3, 1, 2))


def _random(name: str, seed: int) -> Random:
    return np.random.default_rng([seed, *name.encode()])


def _samples(x: Images, name: str) -> Samples:
    return Samples.from_array(x, [f"{name}[{i}]" for i in range(len(x))], name)
