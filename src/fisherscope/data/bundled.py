"""Real images that ship inside the scikit-learn and scikit-image wheels: nothing is downloaded.

Every set has a train and a test split that share no image and no region of a photograph:

=====================  =========  ==========================================================================
name                   shape      content
=====================  =========  ==========================================================================
``digits``             (1, 8, 8)  1,797 handwritten digits of UCI (scikit-learn); levels 0..16 scaled to 0..255
``faces``              (1,25,25)  the 100 faces of LFW in scikit-image; test holds 75
``nonfaces``           (1,25,25)  the 100 other crops of LFW in scikit-image; test holds 75
``digits-16`` etc.     (1,16,16)  the three above resampled (bilinear) to 16x16
``brick`` etc.         (1,16,16)  patches of ONE photograph, grey: every name in :data:`PHOTOS`
``texture-patches``    (1,16,16)  patches of brick, grass and gravel
``photo-patches``      (1,16,16)  patches of six everyday photographs
``smooth-patches``     (1,16,16)  patches of moon, cell and retina
``retina-rgb`` etc.    (3,16,16)  the same in colour, for photographs and collections in colour
=====================  =========  ==========================================================================

Photographs are split by region (:func:`~fisherscope.data.patches.cut_patches`); a patch that occurs twice (a blank
wall) is left out of both splits. Digits are split by their order in the file, in which writers follow each other.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.keys import sample_keys
from fisherscope.data.images import resize_array
from fisherscope.data.patches import Patch, cut_patches
from fisherscope.data.samples import Samples

SPLITS: Final = ("train", "test")
GREY_PHOTOS: Final = ("brick", "grass", "gravel", "camera", "moon", "coins", "cell")
COLOUR_PHOTOS: Final = (
    *("astronaut", "chelsea", "coffee", "rocket", "china", "flower"),
    *("retina", "immunohistochemistry", "hubble_deep_field"),
)
PHOTOS: Final = GREY_PHOTOS + COLOUR_PHOTOS
_COLLECTIONS: Final = {
    "texture-patches": ("brick", "grass", "gravel"),
    "photo-patches": ("astronaut", "chelsea", "coffee", "rocket", "china", "flower"),
    "smooth-patches": ("moon", "cell", "retina"),
}
_SMALL: Final = ("digits", "faces", "nonfaces")
_SCIKIT_LEARN_PHOTOS: Final = ("china", "flower")
_DIGITS_TRAIN: Final = 1198
_FACES_TRAIN: Final = 25
# The photograph is round on black: this is the square inside the circle.
_RETINA: Final = slice(230, 1181)


def list_bundled() -> tuple[str, ...]:
    """Return the names of the bundled sets, sorted."""
    colour = [f"{n}-rgb" for n in (*COLOUR_PHOTOS, *_COLLECTIONS) if _is_colour(n)]
    small = [n + suffix for n in _SMALL for suffix in ("", "-16")]
    return tuple(sorted((*small, *PHOTOS, *_COLLECTIONS, *colour)))


def load_bundled(name: str, split: str = "test") -> Samples:
    """Return one split of a bundled set, uint8 images (N, C, H, W); the table above says what there is.

    Args:
        name: one of :func:`list_bundled`.
        split: ``train`` or ``test``.

    Raises:
        DataError: no such set or split, or scikit-image is not installed.
    """
    if name not in list_bundled():
        raise DataError(f"there is no bundled set '{name}', only {', '.join(list_bundled())}")
    if split not in SPLITS:
        raise DataError(f"the bundled set '{name}' has no split '{split}', only train and test")
    base = name.removesuffix("-16")
    if base in _SMALL:
        return _small(base, name, split)
    return _patch_set(name.removesuffix("-rgb"), name, split)


def _is_colour(name: str) -> bool:
    return all(n in COLOUR_PHOTOS for n in _COLLECTIONS.get(name, (name,)))


def _small(base: str, name: str, split: str) -> Samples:
    images, labels, cut = _digits() if base == "digits" else _lfw(base)
    rows = np.arange(cut) if split == "train" else np.arange(cut, len(images))
    x = images[rows] if name == base else resize_array(images[rows], (1, 16, 16))
    return Samples.from_array(
        x, [f"{name}/{i:04d}" for i in rows], f"{name}[{split}]", None if labels is None else labels[rows]
    )


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, int]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return images[:, None], digits.target.astype(np.int64), _DIGITS_TRAIN


def _lfw(base: str) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, int]:
    crops = _skimage_array("lfw_subset")
    half = crops[:100] if base == "faces" else crops[100:]
    return np.round(half * 255).astype(np.uint8)[:, None], None, _FACES_TRAIN


def _patch_set(base: str, name: str, split: str) -> Samples:
    colour = name.endswith("-rgb")
    photos = _COLLECTIONS.get(base, (base,))
    cut = {s: [(p, patch) for p in photos for patch in cut_patches(_photo(p, colour), s)] for s in SPLITS}
    keys = sample_keys(np.stack([patch.pixels for s in SPLITS for _, patch in cut[s]]))
    unique, counts = np.unique(keys, return_counts=True)
    once = frozenset(unique[counts == 1].tolist())
    start = 0 if split == "train" else len(cut["train"])
    own_keys = keys[start : start + len(cut[split])].tolist()
    kept = [entry for entry, key in zip(cut[split], own_keys, strict=True) if key in once]
    return _patch_samples(kept, f"{name}[{split}]")


def _patch_samples(entries: list[tuple[str, Patch]], name: str) -> Samples:
    return Samples.from_array(
        np.stack([patch.pixels for _, patch in entries]),
        [f"{photo}/{patch.name}" for photo, patch in entries],
        name,
        clusters=[f"{photo}/{patch.block}" for photo, patch in entries],
    )


@cache
def _photo(name: str, colour: bool) -> NDArray[np.uint8]:
    """Return a photograph (C, H, W); grey is ITU-R 601 luma."""
    from PIL import Image

    if name in _SCIKIT_LEARN_PHOTOS:
        from sklearn.datasets import load_sample_image

        photo = load_sample_image(f"{name}.jpg")
    else:
        photo = _skimage_array(name)
    if name == "retina":
        photo = photo[_RETINA, _RETINA]
    if colour:
        return np.ascontiguousarray(np.moveaxis(photo, -1, 0))
    return np.asarray(Image.fromarray(photo).convert("L"))[None]


def _skimage_array(name: str) -> NDArray[np.uint8]:
    try:
        import skimage.data
    except ImportError:
        raise DataError(
            f"the bundled images '{name}' come with scikit-image; pip install 'fisherscope[demo]'"
        ) from None
    try:
        return np.asarray(getattr(skimage.data, name)())
    except (ImportError, OSError) as cause:
        raise DataError(
            f"this scikit-image does not bring '{name}' ({cause}); pip install 'scikit-image>=0.22'"
        ) from None
