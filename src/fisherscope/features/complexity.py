"""How long universal codes of each sample are: complexity without any model."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import nn
from torch.utils import _pytree as pytree

from fisherscope.features.extractors import Blocks, Extractor, Request

_LETTERS: Final = 256
_QUARTERS: Final = 4
_QUARTER: Final = _LETTERS // _QUARTERS


def lempel_ziv_length(sample: bytes) -> float:
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


def context_length(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the length of each image's context code, in nats.

    Every number is coded by the estimator of Krichevsky & Trofimov (1981) among those whose neighbours to the left and
    above lie in the same quarters of the range, 16 contexts for all planes together: what repeats in like
    surroundings is short.

    Args:
        images: (n, ..., H, W) with at least one pixel; axes before H and W are planes.
    """
    planes = images.reshape(len(images), -1, *images.shape[-2:])
    left, above, _ = _neighbours(planes)
    contexts = (left // _QUARTER * _QUARTERS + above // _QUARTER).astype(np.int64)
    return _coded(planes.reshape(len(images), -1), contexts.reshape(len(images), -1), _QUARTERS**2)


def predictive_length(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the length of each image's predictive code, in nats.

    Every pixel is predicted from its neighbours to the left, above and above left by the median edge detector of
    LOCO-I (Weinberger et al. 2000); of three channels the first and third are coded as differences to the second. The
    residuals, modulo 256, are coded by the estimator of Krichevsky & Trofimov, those of each plane for themselves:
    what is smooth is short.

    Args:
        images: as :func:`context_length`; three planes just before H are colours.
    """
    planes = images.copy()
    if images.ndim > 3 and images.shape[-3] == 3:  # differences of bytes wrap, as residuals do
        planes[..., 0, :, :] -= images[..., 1, :, :]
        planes[..., 2, :, :] -= images[..., 1, :, :]
    planes = planes.reshape(len(images), -1, *images.shape[-2:]).astype(np.int16)
    left, above, corner = _neighbours(planes)
    predicted = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    residuals = (planes - predicted).astype(np.uint8)
    which = np.broadcast_to(np.arange(planes.shape[1])[:, None, None], planes.shape)
    return _coded(residuals.reshape(len(images), -1), which.reshape(len(images), -1), planes.shape[1])


def _neighbours(planes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the numbers to the left, above, and above left of every number of (n, P, H, W).

    What lies outside is taken from inside: left of the first column from above, above the first row from the left.
    """
    left, above, corner = np.empty_like(planes), np.empty_like(planes), np.empty_like(planes)
    left[..., 1:], left[..., 1:, 0], left[..., 0, 0] = planes[..., :-1], planes[..., :-1, 0], 0
    above[..., 1:, :], above[..., 0, :] = planes[..., :-1, :], left[..., 0, :]
    corner[..., 1:, 1:], corner[..., 1:, 0] = planes[..., :-1, :-1], planes[..., :-1, 0]
    corner[..., 0, :] = left[..., 0, :]
    return left, above, corner


def _coded(letters: NDArray[np.uint8], contexts: NDArray[np.int64], n_contexts: int) -> NDArray[np.float64]:
    """Return the length of the code of each row of letters (n, T), every context learning by itself.

    The estimator's length has a closed form in the counts n_r of the n letters of a context, whatever their order:
    log Gamma(n + 128) / Gamma(128) - sum_r log Gamma(n_r + 1/2) / Gamma(1/2).
    """
    rows, length = letters.shape
    places = (n_contexts * np.arange(rows)[:, None] + contexts) * _LETTERS + letters
    counts = np.bincount(places.ravel(), minlength=rows * n_contexts * _LETTERS).reshape(-1, _LETTERS)
    of_all, of_letter = _dirichlet_logs(length)
    of_contexts = of_all[counts.sum(1)] - of_letter[counts].sum(1)
    lengths: NDArray[np.float64] = of_contexts.reshape(rows, n_contexts).sum(1)
    return lengths


@cache
def _dirichlet_logs(most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log Gamma(n + 128) / Gamma(128) and log Gamma(n + 1/2) / Gamma(1/2) for n from 0 to ``most``."""
    counts, half = np.arange(most + 1), _LETTERS / 2
    of_all: NDArray[np.float64] = gammaln(counts + half) - gammaln(half)
    of_letter: NDArray[np.float64] = gammaln(counts + 0.5) - gammaln(0.5)
    return of_all, of_letter


class _Length(Extractor):
    """A block (N, B) of code lengths in nats.

    Of a sample's arrays of whole numbers those with two axes or more are images. A number beyond a byte makes images
    of its higher bytes too. Samples of floating numbers, and what a code is not for, have length 0.
    """

    def extract(self, request: Request) -> Blocks:
        leaves = [leaf for leaf in pytree.tree_leaves(request.x) if leaf.dtype.kind in "iub"]
        lengths = self._lengths(leaves, len(request.keys))
        return {self.blocks[0]: request.grouped(lengths)}

    @abstractmethod
    def _lengths(self, leaves: list[NDArray[Any]], n: int) -> NDArray[np.float64]:
        """Return the code lengths of n samples, (n,)."""


class CodeLength(_Length):
    """``code_length`` (N, B): of images their context code's, of other whole numbers their Lempel-Ziv code's."""

    blocks = ("code_length",)

    def _lengths(self, leaves: list[NDArray[Any]], n: int) -> NDArray[np.float64]:
        planes = [plane for leaf in leaves if leaf.ndim < 3 for plane in _byte_planes(leaf)]
        written = [b"".join(letters[i].tobytes() for letters, used in planes if used[i]) for i in range(n)]
        return np.array([lempel_ziv_length(text) for text in written]) + _of_images(context_length, leaves, n)

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {"code_length": {"of_images": "context"}}


class PredictiveLength(_Length):
    """``predictive_length`` (N, B): of images their predictive code's."""

    blocks = ("predictive_length",)

    def _lengths(self, leaves: list[NDArray[Any]], n: int) -> NDArray[np.float64]:
        return _of_images(predictive_length, leaves, n)


def _of_images(
    code: Callable[[NDArray[np.uint8]], NDArray[np.float64]], leaves: list[NDArray[Any]], n: int
) -> NDArray[np.float64]:
    lengths = np.zeros(n)
    for leaf in (leaf for leaf in leaves if leaf.ndim > 2 and leaf.size):
        for letters, used in _byte_planes(leaf):
            lengths[used] += code(letters[used])
    return lengths


def _byte_planes(leaf: NDArray[Any]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield the lowest bytes of all numbers, then the next ones, and which samples have such (n,)."""
    if leaf.dtype in (np.uint8, np.bool_):
        yield leaf.view(np.uint8), np.ones(len(leaf), bool)
        return
    planes = np.ascontiguousarray(leaf.astype("<i8")).view(np.uint8).reshape(*leaf.shape, 8)
    filled: NDArray[np.bool_] = np.asarray(planes.any(tuple(range(1, leaf.ndim))))
    filled[:, 0] = True
    for i in range(8):
        used: NDArray[np.bool_] = np.asarray(filled[:, i:].any(1))
        if used.any():
            yield planes[..., i], used
