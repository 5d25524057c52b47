"""How long universal codes of each sample are: complexity without any model."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import nn
from torch.utils import _pytree as pytree

from fisherscope.features.extractors import Blocks, Extractor, Request

_LETTERS: Final = 256


def code_length(sample: bytes) -> float:
    """Return the length of the Lempel-Ziv code of a string of bytes, in nats; 0 for the empty string.

    The string is cut into the shortest phrases that have not occurred yet (Ziv & Lempel 1978); each of the c phrases
    costs a pointer to an earlier one and a letter: c (log c + log 256), Cover & Thomas, section 13.5. Unlike the file
    size of a compression library it is the same with every version on every machine.
    """
    # The loop runs for every byte: phrases are numbered in steps of 256, so that their letters need only be added.
    phrases: dict[int, int] = {}
    find, node = phrases.get, 0
    for letter in sample:
        longer = node + letter
        known = find(longer)
        if known is None:
            phrases[longer] = (len(phrases) + 1) * _LETTERS
            node = 0
        else:
            node = known
    count = len(phrases) + (node > 0)  # the string may end inside a phrase
    return count * (math.log(count) + math.log(_LETTERS)) if count else 0.0


class CodeLength(Extractor):
    """``code_length`` (N, B): :func:`code_length` of every sample's whole numbers, in nats.

    Images and texts are whole numbers. A sample of floating numbers has no natural code: its length is 0. A whole
    number counts with as many bytes as the sample's largest one has, whatever its dtype.
    """

    blocks = ("code_length",)

    def extract(self, request: Request) -> Blocks:
        leaves = [leaf for leaf in pytree.tree_leaves(request.x) if leaf.dtype.kind in "iub"]
        lengths = [code_length(b"".join(_bytes(leaf[i]) for leaf in leaves)) for i in range(len(request.keys))]
        return {"code_length": request.grouped(np.array(lengths))}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {}


def predictive_length(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the length of each image's predictive code, in nats.

    Every pixel is predicted from its neighbours to the left, above and above left by the median edge detector of
    LOCO-I (Weinberger et al. 2000); of three channels the first and third are coded as differences to the second. The
    residuals of a plane, modulo 256, are coded by the estimator of Krichevsky & Trofimov (1981), whose length has a
    closed form in their counts n_r: log Gamma(n + 128) / Gamma(128) - sum_r log Gamma(n_r + 1/2) / Gamma(1/2).

    Args:
        images: (n, ..., H, W) with at least one pixel; axes before H and W are planes, three of them just before H
            are colours.
    """
    height, width = images.shape[-2:]
    planes = images.copy()
    if images.ndim > 3 and images.shape[-3] == 3:  # differences of bytes wrap, as residuals do
        planes[..., 0, :, :] -= images[..., 1, :, :]
        planes[..., 2, :, :] -= images[..., 1, :, :]
    residuals = _residuals(planes.reshape(-1, height, width).astype(np.int16)).reshape(-1, height * width)
    places = residuals + _LETTERS * np.arange(len(residuals))[:, None]
    counts = np.bincount(places.ravel(), minlength=_LETTERS * len(residuals)).reshape(-1, _LETTERS)
    of_all, of_count = _dirichlet_logs(height * width)
    of_planes = of_all - of_count[counts].sum(1)
    lengths: NDArray[np.float64] = of_planes.reshape(len(images), -1).sum(1)
    return lengths


def _residuals(planes: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return what the prediction leaves of every pixel, (P, H, W), modulo 256."""
    left, above, corner = np.empty_like(planes), np.empty_like(planes), np.empty_like(planes)
    left[:, :, 1:], left[:, 1:, 0], left[:, 0, 0] = planes[:, :, :-1], planes[:, :-1, 0], 0
    above[:, 1:], above[:, 0] = planes[:, :-1], left[:, 0]
    corner[:, 1:, 1:], corner[:, 1:, 0], corner[:, 0] = planes[:, :-1, :-1], planes[:, :-1, 0], left[:, 0]
    predicted = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    residuals: NDArray[np.uint8] = (planes - predicted).astype(np.uint8)
    return residuals


@cache
def _dirichlet_logs(count: int) -> tuple[float, NDArray[np.float64]]:
    """Return log Gamma(count + 128) / Gamma(128), and log Gamma(n + 1/2) / Gamma(1/2) for n from 0 to ``count``."""
    half = _LETTERS / 2
    counts = np.arange(count + 1)
    return float(gammaln(count + half) - gammaln(half)), gammaln(counts + 0.5) - gammaln(0.5)


class PredictiveLength(Extractor):
    """``predictive_length`` (N, B): :func:`predictive_length` of every sample that is an image, in nats.

    Images are arrays of whole numbers with two axes or more a sample. The length is 0 where there is none: of texts,
    of samples of floating numbers, and of images with a number that is no byte.
    """

    blocks = ("predictive_length",)

    def extract(self, request: Request) -> Blocks:
        leaves = [leaf for leaf in pytree.tree_leaves(request.x) if leaf.dtype.kind in "iub" and leaf.ndim > 2]
        lengths, coded = np.zeros(len(request.keys)), np.ones(len(request.keys), bool)
        for leaf in (leaf for leaf in leaves if leaf.size):
            numbers = leaf.reshape(len(leaf), -1)
            coded &= (numbers.min(1) >= 0) & (numbers.max(1) < _LETTERS)
            lengths += predictive_length(leaf.astype(np.uint8))
        return {"predictive_length": request.grouped(np.where(coded, lengths, 0.0))}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {}


def _bytes(values: NDArray[Any]) -> bytes:
    """Return the lowest bytes of all numbers, then the next ones, without the planes that are zero at the end."""
    if values.dtype in (np.uint8, np.bool_):
        return values.tobytes()
    planes = np.ascontiguousarray(values.ravel().astype("<i8")).view(np.uint8).reshape(-1, 8)
    used = np.flatnonzero(planes.any(0))
    return planes[:, : max(1, used[-1] + 1) if len(used) else 1].T.tobytes()
