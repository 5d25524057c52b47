"""Settings checked where they are given: what passes is a plain Python number, which JSON can hold."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

from fisherscope.core.errors import SettingError


def require_rate(name: str, value: Any, meaning: str, example: float) -> float:
    """Return a rate as a float; what is no number between 0 and 1 is a :class:`SettingError`.

    Args:
        name: of the setting.
        value: as it was given, a number of Python or numpy.
        meaning: what it is a rate of, for the message.
        example: a usual value, for the message.
    """
    if not isinstance(value, Real) or not 0 < float(value) < 1:
        raise SettingError(f"{name} is {value!r}, expected a {meaning} between 0 and 1 such as {example:g}")
    return float(value)


def require_whole(name: str, value: Any, least: int) -> int:
    """Return a whole number as an int; another type or one below ``least`` is a :class:`SettingError`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise SettingError(f"{name} is {value!r}, expected a whole number, at least {least}") from None
    if number < least:
        raise SettingError(f"{name} is {number}, expected at least {least}")
    return number
