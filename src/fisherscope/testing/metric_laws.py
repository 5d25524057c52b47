"""Laws of Fisher metrics, over a tiny model with trained-like weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from fisherscope.core.errors import NotFittedError
from fisherscope.core.keys import sample_keys
from fisherscope.core.table import Card, FeatureTable
from fisherscope.detectors import Detector, make_detector
from fisherscope.features.extractors import Request, choose_extractors, extract_blocks
from fisherscope.features.gradients import Reduction, gradient_pass
from fisherscope.features.metrics import (
    FisherMetric,
    RunPass,
    SketchSettings,
    fit_metrics,
    is_built_in_metric,
    load_metric,
    make_metric,
    metric_fingerprint,
    save_metric,
    update_metrics,
)
from fisherscope.testing.detector_laws import keep_laws, require, require_refusal

MakeMetric = Callable[[], FisherMetric]
MetricLaw = Callable[[MakeMetric], None]
Array = NDArray[Any]

SKETCH: Final = SketchSettings(size=32, layer_size=16)
"""Sizes of the sketches that the laws look at."""

_DETECTORS: Final = {"metric": "total-norm", "sketch": "rao-sketch", "layer_sketch": "rao-layers"}


def check_metric(metric: str | MakeMetric) -> None:
    """Run every law of Fisher metrics.

    Args:
        metric: a name that :func:`~fisherscope.features.metrics.make_metric` takes, such as ``package.module:Class``,
            or a function that returns an unfitted metric, always of one name.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    make = partial(make_metric, metric, SKETCH) if isinstance(metric, str) else metric
    keep_laws({name: partial(law, make) for name, law in METRIC_LAWS.items()})


def tiny_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a small autoencoder, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5)).to(dtype)


def tiny_log_prob(module: nn.Module, x: Tensor) -> Tensor:
    """Return log p of samples (n, 5) up to a constant, (n,)."""
    log_p: Tensor = -0.5 * (x - module(x)).square().sum(1)
    return log_p


def tiny_samples(n: int, seed: int = 0, scale: float = 1.0, dtype: type[np.floating] = np.float64) -> Array:
    """Return samples of the tiny model, (n, 5)."""
    samples: Array = (scale * np.random.default_rng(seed).normal(size=(n, 5))).astype(dtype)
    return samples


def passes(x: Array, dtype: torch.dtype = torch.float64, split: int | list[int] = 20) -> RunPass:
    """Return what shows the gradients of samples to reductions, in batches of so many."""

    def run(reductions: Sequence[Reduction], limit: int | None) -> None:
        for part in torch.split(torch.from_numpy(x).to(dtype), split):
            gradient_pass(tiny_model(dtype), part, reductions, log_prob=tiny_log_prob)

    return run


def fitted(make: MakeMetric, n: int = 60, dtype: torch.dtype = torch.float64) -> FisherMetric:
    """Return a metric fitted on n samples."""
    fit_metrics([metric := make()], passes(tiny_samples(n), dtype))
    return metric


def measured(metric: FisherMetric, x: Array, group_size: int = 1, dtype: torch.dtype = torch.float64) -> FeatureTable:
    """Return the table of a metric's blocks, and of log p."""
    request = Request(tiny_model(dtype), tiny_log_prob, x, sample_keys(x), group_size)
    extractors = choose_extractors([*(f.block for f in metric.features()), "log_p"], SKETCH, [metric])
    n = len(x) // group_size
    return FeatureTable(
        blocks=extract_blocks(extractors, request),
        columns={k: v for e in extractors for k, v in e.columns(request.module).items()},
        ids=tuple(tuple(f"{i}.{j}" for j in range(group_size)) for i in range(n)),
        keys=request.keys.reshape(n, group_size),
        card=Card("m", "m", "d", "d", group_size, 0, str(dtype).removeprefix("torch."), {}),
    )


def detector_of(metric: FisherMetric) -> Detector:
    """Return an unfitted one-sided detector that reads a fitted metric's first block."""
    block = metric.features()[0].block
    kind = block.partition(":")[0]
    require(
        block == f"{kind}:{metric.name}" and kind in _DETECTORS,
        f"the first feature of '{metric.name}' is the block '{block}', expected one of {', '.join(_DETECTORS)}, each "
        f"followed by ':{metric.name}'",
    )
    return make_detector(f"{_DETECTORS[kind]}@{metric.name}")


def require_alike(found: FeatureTable, expected: FeatureTable, what: str, rtol: float, atol: float) -> None:
    """Raise an AssertionError unless the blocks of two tables agree, ``atol`` relative to a block's largest value."""
    for block, values in expected.blocks.items():
        np.testing.assert_allclose(
            found.blocks[block], values, rtol=rtol, atol=atol * np.abs(values).max(), err_msg=f"{block}: {what}"
        )


def larger_gradients_are_more_novel(make: MakeMetric) -> None:
    """The median of samples ten times as large exceeds the usual scores."""
    metric = fitted(make)
    for size in (1, 3):
        detector = detector_of(metric).fit(measured(metric, tiny_samples(60), size))
        usual = detector.score(measured(metric, tiny_samples(60, 1), size)).max()
        loud = np.median(detector.score(measured(metric, tiny_samples(60, 1, scale=10), size)))
        require(
            loud > usual, f"{metric.name}: ten times as large samples score {loud:.6g}, usual ones up to {usual:.6g}"
        )


def blocks_are_of_their_group_alone(make: MakeMetric) -> None:
    """Neither batch nor order matters."""
    metric, x = fitted(make), tiny_samples(24, 1)
    whole, order = measured(metric, x, 2), np.random.default_rng(0).permutation(12)
    rows = np.stack([2 * order, 2 * order + 1], axis=1).ravel()
    require_alike(measured(metric, x[rows], 2), whole.select(order), "groups in another order", 1e-8, 1e-12)
    require_alike(measured(metric, x[:6], 2), whole.select([0, 1, 2]), "groups in a smaller batch", 1e-8, 1e-12)


def fits_do_not_depend_on_the_order(make: MakeMetric) -> None:
    """The fit samples in reverse give the same metric, few as they may be."""
    new = tiny_samples(8, 1)
    for n in (6, 60):
        fit_metrics([other := make()], passes(tiny_samples(n)[::-1].copy()))
        require_alike(measured(other, new), measured(fitted(make, n), new), "fit samples in reverse", 1e-6, 1e-9)


def fits_do_not_depend_on_the_batches(make: MakeMetric) -> None:
    """The fit samples split otherwise give the same metric."""
    new = tiny_samples(8, 1)
    splits: tuple[int | list[int], ...] = (33, 1, 32, [1, 30, 2])
    tables = []
    for split in splits:
        fit_metrics([metric := make()], passes(tiny_samples(33), split=split))
        tables.append(measured(metric, new))
    for split, table in zip(splits, tables, strict=True):
        require_alike(table, tables[0], f"fit samples in batches of {split}", 1e-6, 1e-9)


def state_is_arrays_that_come_back(make: MakeMetric) -> None:
    """What was learnt is numbers, nothing before the fit, and its file measures bit-equally."""
    unfitted, metric, x = make(), fitted(make), tiny_samples(10, 1)
    if unfitted.stages:
        require_refusal(lambda: metric_fingerprint(unfitted), NotFittedError, "before it was fitted", "before a fit")
    for key, value in metric.state().items():
        good = isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
        require(good, f"the state '{key}' of {metric.name} is {type(value).__name__}, expected an array of numbers")
    with tempfile.TemporaryDirectory() as folder:
        save_metric(metric, path := Path(folder) / "metric.safetensors", SKETCH)
        loaded = load_metric(path, None if is_built_in_metric(metric.name) else make())
    same = metric_fingerprint(loaded) == metric_fingerprint(metric) and loaded.name == metric.name
    require(same, f"{metric.name}: what was loaded is not what was saved")
    require_alike(measured(loaded, x), measured(metric, x), f"{metric.name} after saving and loading", 0, 0)


def p_values_are_calibrated(make: MakeMetric) -> None:
    """Scores of two sets of new samples are alike (Kolmogorov-Smirnov)."""
    metric = fitted(make)
    detector = detector_of(metric).fit(measured(metric, tiny_samples(60)))
    first, second = (detector.score(measured(metric, tiny_samples(300, seed))) for seed in (2, 3))
    p_value = stats.ks_2samp(first, second).pvalue
    require(p_value > 1e-3, f"{metric.name}: scores of new samples differ, Kolmogorov-Smirnov p = {p_value:.2g}")


def constants_and_noise_are_finite(make: MakeMetric) -> None:
    """No NaN and no inf."""
    metric = fitted(make)
    for x in (np.zeros((4, 5)), np.full((4, 5), 3.0), tiny_samples(4, 9, scale=1e3)):
        for block, values in measured(metric, x, 2).blocks.items():
            require(np.isfinite(values).all(), f"{block} of samples up to {x.max():.4g} holds NaN or inf")


def single_precision_agrees_with_double(make: MakeMetric) -> None:
    """The median difference is below 1e-4 of the median size."""
    metric, single = fitted(make), fitted(make, dtype=torch.float32)
    block, x = metric.features()[0].block, tiny_samples(40, 1)
    exact = measured(metric, x).blocks[block]
    rough = measured(single, x.astype(np.float32), dtype=torch.float32).blocks[block]
    off = np.median(np.abs(rough - exact)) / np.median(np.abs(exact))
    require(off < 1e-4, f"{block} in float32 differs from float64 by {off:.2g}, expected less than 1e-4")


def cards_name_the_fit(make: MakeMetric) -> None:
    """A table's card says which fit its blocks were measured with."""
    metric, module = fitted(make), tiny_model()
    (extractor,) = choose_extractors([f.block for f in metric.features()], SKETCH, [metric])
    for block, said in extractor.settings(module).items():
        require(said["metric"] == metric_fingerprint(metric), f"the card's settings of {block} are {said}")


def updates_take_samples_in(make: MakeMetric) -> None:
    """After an update with further samples the metric still measures; one without growing stages has not changed."""
    metric = fitted(make)
    before = metric_fingerprint(metric)
    update_metrics([metric], passes(tiny_samples(30, 4)))
    require(
        (metric_fingerprint(metric) != before) == bool(metric.growing),
        f"{metric.name} has the growing stages {metric.growing}, but an update changed "
        f"{'nothing' if metric.growing else 'it'}",
    )
    for block, values in measured(metric, tiny_samples(4, 1)).blocks.items():
        require(np.isfinite(values).all(), f"{block} holds NaN or inf after an update")


METRIC_LAWS: Final[Mapping[str, MetricLaw]] = {
    law.__name__: law
    for law in (
        larger_gradients_are_more_novel,
        blocks_are_of_their_group_alone,
        fits_do_not_depend_on_the_order,
        fits_do_not_depend_on_the_batches,
        state_is_arrays_that_come_back,
        p_values_are_calibrated,
        constants_and_noise_are_finite,
        single_precision_agrees_with_double,
        cards_name_the_fit,
        updates_take_samples_in,
    )
}
"""Every law by name."""
