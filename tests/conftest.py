"""Shared by all tests."""

import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker, in the processes that tests start too: several share the cores, and waiting threads spin.
    # Before torch is imported, which reads it once.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; skips where they are missing."""
    root = Path(os.environ.get("FISHERSCOPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"the real data sets are missing: set FISHERSCOPE_DATA (looked at {root})")
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process; return exit code, stdout and stderr."""
    from fisherscope.cli import main

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["fisherscope", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command
