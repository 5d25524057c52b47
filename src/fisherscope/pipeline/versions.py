"""Versions of what a result was made with."""

from __future__ import annotations

import platform

import numpy as np
import torch

from fisherscope import __version__


def versions() -> dict[str, str]:
    """Return the versions that go into every page and every file of results."""
    return {
        "fisherscope": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
