"""Named values of several owners in one mapping, each owner's names behind a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def part(values: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Return the values whose names start with ``prefix``, by their names without it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
