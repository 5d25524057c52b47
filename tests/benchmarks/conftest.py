"""Scripts of the benchmarks folder as modules."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def import_script(monkeypatch):
    """Return what imports a script by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module
