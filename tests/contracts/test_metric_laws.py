"""Laws that every Fisher metric keeps, over a tiny model with trained-like weights."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from fisherscope.core.table import is_group_block
from fisherscope.features.metrics import (
    fit_metrics,
    make_metric,
    metric_fingerprint,
    metric_names,
    save_metric,
)
from fisherscope.testing import METRIC_LAWS
from fisherscope.testing.metric_laws import SKETCH, fitted, measured, passes, tiny_samples

NAMES = metric_names()
# Eigenvectors have no sign: these sketches turn with round-off, and keep their lengths only.
TURNING = ("whitened", "whitened-inputs", "whitened-outputs")
EXACT = ("fits_do_not_depend_on_the_order", "single_precision_agrees_with_double")


def made(name):
    return partial(make_metric, name, SKETCH)


@pytest.mark.parametrize("law", METRIC_LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_law(name, law):
    if name in TURNING and law in EXACT:
        pytest.skip("turns with round-off")
    METRIC_LAWS[law](made(name))


@pytest.mark.parametrize("name", TURNING)
def test_the_order_of_the_samples_turns_sketches_but_keeps_their_lengths(name):
    metric, other, new = fitted(made(name)), make_metric(name, SKETCH), tiny_samples(8, 1)
    fit_metrics([other], passes(tiny_samples(60)[::-1].copy()))
    again = measured(other, new)
    for block, values in measured(metric, new).blocks.items():
        if is_group_block(block) or block == "log_p":
            np.testing.assert_allclose(again.blocks[block], values, rtol=0.5)
        else:
            lengths = [np.square(v).sum(2) for v in (values, again.blocks[block])]
            np.testing.assert_allclose(lengths[1], lengths[0], rtol=0.5)


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
