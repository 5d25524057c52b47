"""Pickles of plain values and numpy arrays, read without trusting them.

The batches of CIFAR-10 and ImageNet32 are pickles. A pickle is a program that may call anything it can name, so here
it can name a handful of stand-ins only: they check their arguments and build the array with :func:`numpy.frombuffer`.
Not even numpy's own functions are reached, since a forged dtype state makes them read foreign memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import numpy as np

from fisherscope.core.errors import DataError
from fisherscope.data.samples import Array

_KINDS: Final = "biuf"
_DTYPE_STATE: Final = range(8, 10)  # length of the tuple that numpy writes


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary (protocols 0 to 5, of Python 2 or 3) of plain values and numeric numpy arrays.

    Args:
        path: the file.

    Returns:
        The dictionary. A value is an array of booleans, integers or floats, or None, a boolean, number, text or
        bytes, or a collection of those. Texts of Python 2 are decoded as Latin-1.

    Raises:
        DataError: the file is truncated, no pickle or no dictionary, or names anything else; that name is in the
            message, and nothing of it has been imported or run.
    """
    try:
        with path.open("rb") as file:
            return _finish(_PlainUnpickler(file, path).load())
    except DataError:
        raise
    except Exception as cause:  # a broken pickle raises whatever its broken instruction met
        reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        raise DataError(f"{path} is truncated or not a pickled dictionary ({reason}); get it again") from None


class _PlainUnpickler(pickle.Unpickler):
    """pickle's machine, which can name the stand-ins below and nothing else."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str, /) -> Any:
        allowed = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            raise DataError(
                f"{self._path} wants to call {module}.{name}, expected plain values and numpy arrays only; nothing of "
                "it was run. Do not trust this file: get it again from its authors"
            )
        return allowed


class _Call:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise ValueError("a function has no state")


class _Dtype:
    """Stands for ``numpy.dtype(code)``."""

    __slots__ = ("order", "value")

    def __init__(self, code: object, *_flags: object) -> None:
        if not isinstance(code, str) or code[:1] not in _KINDS or not code[1:].isdigit():
            raise ValueError(f"an array of {code!r}, expected booleans, integers or floats")
        self.value = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) not in _DTYPE_STATE or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype that numpy has not written")
        self.value = self.value.newbyteorder(state[1])


class _PlainArray:
    """Stands for an array until its state comes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Array | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array that numpy has not written")
        _, shape, dtype, fortran, content = state
        # Python 2 wrote the bytes as a text
        content = content.encode("latin1") if isinstance(content, str) else content
        self.value = _array(content, dtype, shape, "F" if fortran else "C")


def _reconstruct(kind: object, *_shape_and_code: object) -> _PlainArray:
    if kind is not _NDARRAY:
        raise ValueError("an array of an unknown class")
    return _PlainArray()


def _from_buffer(content: object, dtype: object, shape: object, order: object, *_axes: object) -> _PlainArray:
    made = _PlainArray()
    made.value = _array(content, dtype, shape, order)
    return made


def _array(content: object, dtype: object, shape: object, order: object) -> Array:
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise ValueError("an array that numpy has not written")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an array of shape {shape!r}")
    return np.frombuffer(content, dtype.value).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    # how Python 3 writes bytes in protocol 2
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes that Python has not written")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    # how Python 3 writes empty bytes in protocol 2
    return b""


def _finish(batch: object) -> dict[str, Any]:
    # only values of the dictionary can be arrays: a search of nested lists could be made to take for ever
    if not isinstance(batch, dict) or not all(isinstance(key, str) for key in batch):
        raise ValueError(f"a {type(batch).__name__}, expected a dictionary with texts as keys")
    return {key: _value(value) for key, value in batch.items()}


def _value(value: object) -> object:
    if isinstance(value, _PlainArray):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, _Call | _Dtype):
        raise ValueError("something that is no value")
    return value


_NDARRAY: Final = _Call(lambda *_arguments: _PlainArray())
_ALLOWED: Final[Mapping[tuple[str, str], _Call]] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Call(_Dtype),
    ("numpy.core.multiarray", "_reconstruct"): _Call(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _Call(_from_buffer),
    ("_codecs", "encode"): _Call(_encode),
    ("__builtin__", "bytes"): _Call(_no_bytes),
}
