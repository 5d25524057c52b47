"""Samples: arrays with names and keys, and the checks a model may ask of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.keys import KeyArray, fingerprint_keys, sample_keys
from fisherscope.core.settings import require_whole

Array = NDArray[Any]
Shape = tuple[int, int, int]
_FRAME = re.compile(r"^(.+)-frame\d+(\.\w+)?$")

Index = slice | Sequence[int] | NDArray[np.intp] | NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """Samples with a name and a key each. Make one with :meth:`from_array`, which hashes the keys.

    Attributes:
        x: samples; images are (N, C, H, W) uint8, windows of text (N, T) uint8, anything else is (N, ...) floating.
        ids: N unique names: a file name, ``path#row`` of a Parquet file, ``name[row]`` of an array, ``file:offset``
            of a text or ``file:line`` of a CSV file.
        keys: 64-bit hash of every sample, shape (N,), dtype uint64; equal for a uint8 image and its float copy.
        name: what the user called the set, e.g. ``cifar10[test]``.
        labels: class of every sample, shape (N,), or None where there is none.
        clusters: name of the cluster (a video track, a photograph) each sample belongs to: splits keep clusters
            whole and intervals resample them; None where samples are independent.
        columns: names of the columns of a table, or None where it has none or the samples are no rows of a table.
    """

    x: Array
    ids: tuple[str, ...]
    keys: KeyArray
    name: str
    labels: NDArray[np.int64] | None = None
    clusters: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check that every field speaks of the same samples and that names are unique."""
        n = len(self.x)
        for field in ("ids", "keys", "labels", "clusters"):
            value = getattr(self, field)
            if value is not None and len(value) != n:
                raise DataError(f"{self.name}: {len(value)} {field} for {n} samples, expected one for each")
        if len(set(self.ids)) != n:
            twice = next(i for i in self.ids if self.ids.count(i) > 1)
            raise DataError(f"{self.name}: the name '{twice}' occurs twice, expected unique names")

    @classmethod
    def from_array(
        cls,
        x: Array,
        ids: Sequence[str],
        name: str,
        labels: NDArray[np.int64] | None = None,
        clusters: Sequence[str] | None = None,
    ) -> Samples:
        """Return samples with their keys.

        Args:
            x: samples (N, ...); NaN and inf are refused.
            ids: N unique names.
            name: name of the set.
            labels: classes (N,), or None.
            clusters: N cluster names, or None.

        Raises:
            DataError: no samples, a value that is not finite (its sample is named), or fields of unequal length.
        """
        if len(x) == 0:
            raise DataError(f"{name} holds no samples, expected at least one")
        _require_finite(x, ids, name)
        return cls(x, tuple(ids), sample_keys(x), name, labels, None if clusters is None else tuple(clusters))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the samples in their order, 32 hexadecimal digits."""
        return fingerprint_keys(self.keys)

    def select(self, index: Index) -> Samples:
        """Return some samples, in the order of ``index`` (positions, a slice or a mask over the N samples)."""
        rows = np.arange(len(self))[index]
        return replace(
            self,
            x=self.x[rows],
            ids=tuple(self.ids[i] for i in rows),
            keys=self.keys[rows],
            labels=None if self.labels is None else self.labels[rows],
            clusters=None if self.clusters is None else tuple(self.clusters[i] for i in rows),
        )


@dataclass(frozen=True)
class ReadOptions:
    """What every reader understands.

    Attributes:
        limit: at most so many samples, drawn at random before anything is decoded, kept in their original order;
            None for all.
        seed: of that draw. Draws of one seed are nested: the subset of 100 lies in the subset of 200.
        resize: (C, H, W), C 1 or 3, to crop, resample and convert images to; None takes them exactly as they are.
        window: length of the windows that a text is cut into, in bytes.
    """

    limit: int | None = None
    seed: int = 0
    resize: Shape | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"limit is {self.limit}, expected at least 1 sample")
        require_whole("seed", self.seed, 0)
        shape = self.resize
        if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1):
            raise SettingError(f"resize is {shape}, expected (channels, height, width) with 1 or 3 channels")
        if self.window is not None and self.window < 1:
            raise SettingError(f"window is {self.window}, expected at least 1 byte")

    def rows(self, count: int) -> NDArray[np.intp]:
        """Return the rows to read of ``count``, ascending."""
        if self.limit is None or self.limit >= count:
            return np.arange(count)
        return np.sort(np.random.default_rng(self.seed).permutation(count)[: self.limit])


DEFAULTS: Final = ReadOptions()


def track_names(paths: Sequence[str]) -> list[str] | None:
    """Return the track of every frame, if all paths are called ``TRACK-frameNNN``; else None."""
    matches = [_FRAME.match(p) for p in paths]
    return [m.group(1) for m in matches if m] if all(matches) else None


def describe_shape(shape: tuple[int, ...]) -> str:
    """Return a sample's shape in words: ``32x32 RGB`` (height x width), ``28x28 grey`` or the bare tuple."""
    names = {1: "grey", 3: "RGB"}
    if len(shape) == 3 and shape[0] in names:
        return f"{shape[1]}x{shape[2]} {names[shape[0]]}"
    return f"of shape {shape}"


def require_shape(samples: Samples, shape: tuple[int, ...], value_range: tuple[float, float] | None = None) -> None:
    """Check that samples are what a model expects.

    Args:
        samples: the samples.
        shape: shape of one sample, (C, H, W) for images.
        value_range: least and greatest value the model accepts, or None for any.

    Raises:
        DataError: another shape, a value out of range, or float values that lie in [0, 1] as a whole where the
            model expects a wider range (an image that was divided by 255 would be scored as a black one).
    """
    if samples.shape != tuple(shape):
        advice = "use --resize to convert (resampling itself can look novel)"
        if _is_text(samples):
            advice = f"use --window {shape[0]}" if len(shape) == 1 else "a text needs a model of byte windows"
        elif samples.x.dtype != np.uint8:
            advice = "give samples of that shape"
        raise DataError(
            f"{samples.ids[0]} of {samples.name} is {describe_shape(samples.shape)}, "
            f"the model expects {describe_shape(tuple(shape))}; {advice}"
        )
    if value_range is not None:
        _require_range(samples, *value_range)
        if _is_text(samples) and value_range not in ((0, 255), (-np.inf, np.inf)):
            raise DataError(
                f"{samples.name} is bytes, the model reads numbers from {value_range[0]:g} to {value_range[1]:g} "
                "(ids of tokens, say); encode the text for it and give the array"
            )


def _is_text(samples: Samples) -> bool:
    return samples.x.dtype == np.uint8 and samples.x.ndim == 2


def _require_range(samples: Samples, low: float, high: float) -> None:
    outside = (samples.x < low) | (samples.x > high)
    if outside.any():
        where = np.argwhere(outside)[0]
        raise DataError(
            f"{samples.ids[where[0]]} of {samples.name} holds {samples.x[tuple(where)]:g}, the model expects values "
            f"in [{low:g}, {high:g}]; rescale the samples"
        )
    if (
        samples.x.dtype.kind == "f" and low >= 0 and high > 1 and 0 < samples.x.max() <= 1
    ):  # black is black on either scale
        raise DataError(
            f"all values of {samples.name} lie in [0, 1], the model expects [{low:g}, {high:g}]; "
            f"multiply by {high:g}, or give uint8 images"
        )


def _require_finite(x: Array, ids: Sequence[str], name: str) -> None:
    if x.dtype.kind != "f":
        return
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{name} holds NaN or inf, first in row {row} ({ids[row]}; {int(bad.sum())} of {len(x)} rows); "
            "remove or repair those rows"
        )
