"""Hashes that name samples and artefacts.

A sample's key is a 64-bit hash of the ORIGINAL sample, made once in ``data`` and passed through every wrapper, so
that all randomness of a model (dequantisation noise, latents, diffusion noise) is a function of (seed, key) and a
score does not depend on the batch, the order, the number of workers or the device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

KeyArray = NDArray[np.uint64]

LARGEST_EXACT: Final = 2**53
"""Up to this size float64 holds every integer."""


def _canonical(array: NDArray[Any]) -> NDArray[Any]:
    # float64 holds every uint8, int32, float16 and float32 value exactly: the key of an image does not depend
    # on the dtype it happens to be stored in. Adding 0.0 turns -0.0 into 0.0.
    if array.dtype.kind in "biuf" and array.dtype != np.int64 and array.dtype != np.uint64:
        return np.ascontiguousarray(array, dtype="<f8") + 0.0
    return np.ascontiguousarray(array)


def _bytes_of(array: NDArray[Any]) -> Callable[[int], bytes]:
    """Return a function that gives the bytes of sample i of an array (n, ...), the same for equal values."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8:
        values = _canonical(array)
        return lambda i: values[i].tobytes()
    # Sample by sample, or a key would depend on the other samples: those that float64 would round stay integers.
    fits = array <= LARGEST_EXACT
    if array.dtype.kind == "i":
        fits &= array >= -LARGEST_EXACT
    exact = np.asarray(fits.all(axis=tuple(range(1, array.ndim))))
    floats, whole = np.ascontiguousarray(array, "<f8"), np.ascontiguousarray(array, f"<{array.dtype.kind}8")
    return lambda i: (floats if exact[i] else whole)[i].tobytes()


def sample_keys(leaves: NDArray[Any] | Sequence[NDArray[Any]]) -> KeyArray:
    """Return the 64-bit key of every sample.

    Args:
        leaves: one array (n, ...) or several that share the first axis; together they are the samples.

    Returns:
        Keys, shape (n,), dtype uint64: BLAKE2b-64 of each sample's values and shape. Values count as float64, so that
        uint8, int64 and float copies of a sample have one key, but for samples of larger integers than float64 holds.
    """
    arrays = [leaves] if isinstance(leaves, np.ndarray) else list(leaves)
    count, contents = len(arrays[0]), [_bytes_of(a) for a in arrays]
    heads = [json.dumps(a.shape[1:]).encode() for a in arrays]
    keys = np.empty(count, dtype=np.uint64)
    for i in range(count):
        h = hashlib.blake2b(digest_size=8)
        for head, content in zip(heads, contents, strict=True):
            h.update(head)
            h.update(content(i))
        keys[i] = int.from_bytes(h.digest(), "little")
    return keys


def among(keys: KeyArray, known: KeyArray) -> NDArray[np.bool_]:
    """Return which keys are among known ones, in the shape of ``keys``; at once where ``known`` is sorted."""
    if not known.size:
        return np.zeros(keys.shape, dtype=bool)
    known = known if (known[1:] >= known[:-1]).all() else np.sort(known)
    place = np.searchsorted(known, keys).clip(max=known.size - 1)
    found: NDArray[np.bool_] = known[place] == keys
    return found


def fingerprint(parts: Iterable[bytes]) -> str:
    """Return the BLAKE2b-128 of the parts in order, as 32 hexadecimal digits."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()


def fingerprint_keys(keys: KeyArray) -> str:
    """Return the fingerprint of an ordered set of samples, given their keys (n,)."""
    return fingerprint([np.ascontiguousarray(keys, dtype="<u8").tobytes()])


def fingerprint_arrays(arrays: Iterable[tuple[str, NDArray[Any]]], head: object = None) -> str:
    """Return the fingerprint of named arrays (a model's state), in the order given.

    Values count as float64, so a float32 model and its float64 copy have one fingerprint.
    """

    def parts() -> Iterable[bytes]:
        yield json.dumps(head, sort_keys=True).encode()
        for name, array in arrays:
            yield json.dumps([name, list(array.shape)]).encode()
            yield _canonical(array).tobytes()

    return fingerprint(parts())
