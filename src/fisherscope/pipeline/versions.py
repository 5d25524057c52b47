"""Versions of what a result was made with."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from typing import Final

from fisherscope import __version__

_COMPUTING: Final = ("torch", "numpy", "scipy", "scikit-learn", "pillow")


@cache
def versions() -> dict[str, str]:
    """Return the versions that go into every page and every file of results."""
    own = {"fisherscope": __version__, "python": platform.python_version()}
    return own | {package: version(package) for package in _COMPUTING}
