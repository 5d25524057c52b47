"""Text files, as windows of bytes of one length (otherwise the length would decide a score)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError, SettingError
from fisherscope.data.parts import part_of
from fisherscope.data.samples import DEFAULTS, ReadOptions, Samples


def read_text(path: Path, name: str, options: ReadOptions = DEFAULTS, *, split: str | None = None) -> Samples:
    """Read a text file as bytes, whatever its encoding, and cut it into windows that do not overlap.

    Args:
        path: the file.
        name: name of the set.
        options: the window's length in bytes, and the subset of windows.
        split: ``train`` for the first 80 % of the windows, ``test`` for the rest, None for all.

    Returns:
        Windows (N, window), uint8, called ``file.txt:offset``; what is left over at the end is dropped.

    Raises:
        DataError: no window was given, the file is empty or shorter than one, or images were asked for.
    """
    if options.resize is not None:
        raise DataError(f"{name} is a text; only images can be resized")
    if options.window is None:
        raise DataError(
            f"{name} is a text, which is cut into windows of bytes, and the model does not say how long they are; "
            "give --window, such as --window 128, or to a model of tokens (transformers) an array of token ids (N, T)"
        )
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise DataError(f"{path} cannot be read ({cause.strerror}); check the file") from None
    if len(content) < options.window:
        size = f"has {len(content)} bytes" if content else "is empty"
        raise DataError(f"{path} {size}, expected at least one window of {options.window} bytes; give a longer text")
    windows = byte_windows(content, options.window)
    part = np.asarray(part_of(len(windows), split, name))
    rows = part[options.rows(len(part))]
    return Samples.from_array(windows[rows], [f"{path.name}:{i * options.window}" for i in rows], name)


def byte_windows(text: bytes, length: int, *, stride: int | None = None) -> NDArray[np.uint8]:
    """Return the windows of a text, uint8 (n, length); what is left over at the end is dropped.

    Args:
        text: the text, encoded.
        length: bytes a window.
        stride: bytes from one window's start to the next; by default ``length``, so that windows do not overlap.

    Raises:
        SettingError: the text is shorter than one window, or a length is not positive.
    """
    step = length if stride is None else stride
    if min(length, step) < 1 or len(text) < length:
        raise SettingError(f"{len(text)} bytes hold no window of {length} bytes with stride {step}")
    starts = np.arange(0, len(text) - length + 1, step)
    windows: NDArray[np.uint8] = np.frombuffer(text, dtype=np.uint8)[starts[:, None] + np.arange(length)]
    return windows
