"""Laws that every Fisher metric keeps, over a tiny model with trained-like weights."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fisherscope.core.keys import sample_keys
from fisherscope.core.table import Card, FeatureTable
from fisherscope.detectors import make_detector
from fisherscope.features.extractors import Request, choose_extractors, extract_blocks
from fisherscope.features.gradients import gradient_pass
from fisherscope.features.metrics import (
    SketchSettings,
    fit_metrics,
    load_metric,
    make_metric,
    metric_fingerprint,
    metric_names,
    save_metric,
)

NAMES = metric_names()
SKETCH = SketchSettings(size=32, layer_size=16)


def make_model(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5)).to(dtype)


def log_prob(module, x):
    return -0.5 * (x - module(x)).square().sum(1)


def samples(n, seed=0, scale=1.0, dtype=np.float64):
    return (scale * np.random.default_rng(seed).normal(size=(n, 5))).astype(dtype)


def fitted(name, n=60, dtype=torch.float64, split=20):
    metric, module = make_metric(name, SKETCH), make_model(dtype)

    def run(reductions, limit):
        for part in torch.from_numpy(samples(n)).to(dtype).split(split):
            gradient_pass(module, part, reductions, log_prob=log_prob)

    fit_metrics([metric], run)
    return metric


def table(metric, x, group_size=1, dtype=torch.float64):
    request = Request(make_model(dtype), log_prob, x, sample_keys(x), group_size)
    own = [f.block for f in metric.features()]
    extractors = choose_extractors([*own, "log_p"], SKETCH, [metric])
    n = len(x) // group_size
    return FeatureTable(
        blocks=extract_blocks(extractors, request),
        columns={k: v for e in extractors for k, v in e.columns(request.module).items()},
        ids=tuple(tuple(f"{i}.{j}" for j in range(group_size)) for i in range(n)),
        keys=request.keys.reshape(n, group_size),
        card=Card("m", "m", "d", "d", group_size, 0, str(dtype).removeprefix("torch."), {}),
    )


def detector_for(metric):
    """One-sided, and fitted to the metric's own numbers."""
    block = metric.features()[0].block
    return make_detector(f"{'total-norm' if block.startswith('metric:') else 'rao-sketch'}@{metric.name}")


def assert_measure_alike(metric, other):
    for block, values in table(other, samples(8, 1)).blocks.items():
        again = table(metric, samples(8, 1)).blocks[block]
        np.testing.assert_allclose(again, values, rtol=1e-6, atol=1e-9 * np.abs(values).max())


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_larger_gradients_are_more_novel(name, group_size):
    metric = fitted(name)
    detector = detector_for(metric).fit(table(metric, samples(60), group_size))
    usual = detector.score(table(metric, samples(60, 1), group_size))
    loud = detector.score(table(metric, samples(60, 1, scale=10), group_size))
    assert np.median(loud) > usual.max()


@pytest.mark.parametrize("name", NAMES)
def test_blocks_do_not_depend_on_batch_or_order(name):
    metric, x = fitted(name), samples(24, 1)
    whole, order = table(metric, x, 2), np.random.default_rng(0).permutation(12)
    rows = np.stack([2 * order, 2 * order + 1], axis=1).ravel()
    moved, part = table(metric, x[rows], 2), table(metric, x[:6], 2)
    for block, values in whole.blocks.items():
        tolerance = {"rtol": 1e-8, "atol": 1e-12 * np.abs(values).max()}
        np.testing.assert_allclose(moved.blocks[block], values[order], **tolerance)
        np.testing.assert_allclose(part.blocks[block], values[:3], **tolerance)


@pytest.mark.parametrize("n", [6, 60], ids=["factors of low rank", "of full rank"])
@pytest.mark.parametrize("name", NAMES)
def test_the_fit_does_not_depend_on_the_order_of_the_samples(name, n):
    metric, module, x = fitted(name, n), make_model(), samples(n)[::-1].copy()
    other = make_metric(name, SKETCH)
    fit_metrics([other], lambda r, limit: gradient_pass(module, torch.from_numpy(x), r, log_prob=log_prob))
    assert_measure_alike(other, metric)


@pytest.mark.parametrize("split", [1, 32, [1, 30, 2]], ids=["ones", "32 and 1", "uneven"])
@pytest.mark.parametrize("name", NAMES)
def test_the_fit_does_not_depend_on_how_the_samples_are_split(name, split):
    assert_measure_alike(fitted(name, 33, split=split), fitted(name, 33, split=33))


@pytest.mark.parametrize("name", NAMES)
def test_state_is_plain_arrays_and_comes_back_to_the_bit(name, tmp_path):
    metric, x = fitted(name), samples(10, 1)
    assert all(isinstance(v, np.ndarray) and v.dtype.kind in "fiu" for v in metric.state().values())
    save_metric(metric, tmp_path / "m.safetensors", SKETCH)
    loaded = load_metric(tmp_path / "m.safetensors")
    assert metric_fingerprint(loaded) == metric_fingerprint(metric) and loaded.name == name
    for block, values in table(metric, x).blocks.items():
        np.testing.assert_array_equal(table(loaded, x).blocks[block], values)


def test_files_are_read_alike_in_another_process(tmp_path):
    for name in NAMES:
        save_metric(fitted(name), tmp_path / f"{name}.safetensors", SKETCH)
    code = (
        "import sys, pathlib\n"
        "from fisherscope.features.metrics import load_metric, metric_fingerprint\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    print(path.stem, metric_fingerprint(load_metric(path)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found == {name: metric_fingerprint(fitted(name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_p_values_are_calibrated(name):
    metric = fitted(name)
    detector = detector_for(metric).fit(table(metric, samples(60)))
    first, second = (detector.score(table(metric, samples(300, seed))) for seed in (2, 3))
    assert stats.ks_2samp(first, second).pvalue > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [np.zeros((4, 5)), np.full((4, 5), 3.0), 1e3 * samples(4, 9)], ids=["0", "3", "noise"])
def test_blocks_of_constants_and_noise_are_finite(name, x):
    metric = fitted(name)
    for block in table(metric, x, 2).blocks.values():
        assert np.isfinite(block).all()


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_agrees_with_double(name):
    metric, single = fitted(name), fitted(name, dtype=torch.float32)
    block = metric.features()[0].block
    exact = table(metric, samples(40, 1)).blocks[block]
    rough = table(single, samples(40, 1, dtype=np.float32), dtype=torch.float32).blocks[block]
    assert np.median(np.abs(rough - exact)) < 1e-4 * np.median(np.abs(exact))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_which_fit_it_was(name):
    metric, module = fitted(name), make_model()
    (extractor,) = choose_extractors([f.block for f in metric.features()], SKETCH, [metric])
    for said in extractor.settings(module).values():
        assert said["metric"] == metric_fingerprint(metric)
