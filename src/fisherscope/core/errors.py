"""Errors of the library: one root, one clear line each.

Every message says what was given, what was expected and what to do. The command line prints that line and
exits with code 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Self

_MOST_NAMED: Final = 5


def some_of(names: Sequence[str]) -> str:
    """Return the first five names, and how many there are beyond them."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


class FisherscopeError(Exception):
    """Root of every error that fisherscope raises on purpose."""


class DataError(FisherscopeError, ValueError):
    """The samples cannot be used: missing, corrupt, of the wrong shape, NaN, too few."""


class ModelError(FisherscopeError, ValueError):
    """The model or its log-prob callable cannot be used: truncated checkpoint, not per sample, coupled samples."""


class NonFiniteLogProbError(ModelError):
    """log p of some samples is NaN or infinite.

    Attributes:
        values: these log p, by number of the sample in the batch that was given.
    """

    def __init__(self, values: Mapping[int, float], ids: Sequence[str] | None = None) -> None:
        self.values = dict(values)
        found = [f"sample {i if ids is None else ids[i]} is {value}" for i, value in self.values.items()]
        those = "that sample" if len(found) == 1 else "those samples"
        super().__init__(f"log p of {some_of(found)}; look at {those} and at the model's numerical range")

    def named(self, ids: Sequence[str]) -> Self:
        """Return the error that calls samples by the ids of the batch."""
        return type(self)(self.values, ids)


class SettingError(FisherscopeError, ValueError):
    """A setting is out of range or names something unknown."""


class NotFittedError(FisherscopeError, RuntimeError):
    """A detector or guard was asked for a score before it was fitted."""


class CardMismatchError(FisherscopeError, ValueError):
    """Two artefacts that must agree do not.

    Attributes:
        field: name of the first card field that differs.
    """

    def __init__(self, field: str, expected: object, found: object, advice: str) -> None:
        self.field = field
        super().__init__(f"card field '{field}' does not match: expected {expected!r}, found {found!r}; {advice}")
