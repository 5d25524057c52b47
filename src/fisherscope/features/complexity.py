"""How long a universal code of each sample is: complexity without any model."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
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


def _bytes(values: NDArray[Any]) -> bytes:
    """Return the lowest bytes of all numbers, then the next ones, without the planes that are zero at the end."""
    if values.dtype in (np.uint8, np.bool_):
        return values.tobytes()
    planes = np.ascontiguousarray(values.ravel().astype("<i8")).view(np.uint8).reshape(-1, 8)
    used = np.flatnonzero(planes.any(0))
    return planes[:, : max(1, used[-1] + 1) if len(used) else 1].T.tobytes()
