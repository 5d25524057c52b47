"""Errors of the library: one root, one clear line each.

Every message says what was given, what was expected and what to do. The command line prints that line and
exits with code 2.
"""

from __future__ import annotations


class FisherscopeError(Exception):
    """Root of every error that fisherscope raises on purpose."""


class DataError(FisherscopeError, ValueError):
    """The samples cannot be used: missing, corrupt, of the wrong shape, NaN, too few."""


class ModelError(FisherscopeError, ValueError):
    """The model or its log-prob callable cannot be used: truncated checkpoint, not per sample, coupled samples."""


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
