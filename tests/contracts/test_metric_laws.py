"""Laws that every Fisher metric keeps, over a tiny model with trained-like weights."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from fisherscope.features.metrics import (
    make_metric,
    metric_fingerprint,
    metric_names,
    save_metric,
)
from fisherscope.testing import METRIC_LAWS
from fisherscope.testing.metric_laws import SKETCH, fitted

NAMES = metric_names()


def made(name):
    return partial(make_metric, name, SKETCH)


@pytest.mark.parametrize("law", METRIC_LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_law(name, law):
    METRIC_LAWS[law](made(name))


def test_files_are_read_alike_in_another_process(tmp_path):
    for name in NAMES:
        save_metric(fitted(made(name)), tmp_path / f"{name}.safetensors", SKETCH)
    code = (
        "import sys, pathlib\n"
        "from fisherscope.features.metrics import load_metric, metric_fingerprint\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    print(path.stem, metric_fingerprint(load_metric(path)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found == {name: metric_fingerprint(fitted(made(name))) for name in NAMES}
