"""The user's own classes and functions, named on a command line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def import_named(spec: str) -> Any:
    """Return what ``package.module:attribute`` names; a module in the working directory is found too.

    Raises:
        ImportError, AttributeError, ValueError: there is no such module or attribute.
    """
    module, _, attribute = spec.partition(":")
    # The console script does not have the working directory on its path, where a user's own module usually lies.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return getattr(importlib.import_module(module), attribute)
