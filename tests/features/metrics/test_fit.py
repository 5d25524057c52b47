"""Fitting together, in one or several parts; files."""

import numpy as np
import pytest
import torch
from metric_reference import Tiny, log_prob, measured, passes_over, samples

from fisherscope.core.errors import CardMismatchError, DataError, NotFittedError, SettingError
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.features.gradients import gradient_pass
from fisherscope.features.metrics import (
    fit_metrics,
    load_metric,
    make_metric,
    metric_fingerprint,
    save_metric,
    update_metrics,
)

TOGETHER = ("diagonal", "kfac", "ekfac", "low-rank", "whitened")


@pytest.fixture(scope="module")
def module():
    return Tiny()


def test_metrics_fitted_together_share_passes_and_learn_the_same(module):
    passes = []
    run = passes_over(module, samples(30))

    def counting(reductions, limit):
        passes.append((len(reductions), limit))
        run(reductions, limit)

    together = [make_metric(name) for name in TOGETHER]
    fit_metrics(together, counting)
    assert passes == [(4, None), (1, 256), (1, None)]  # the sketch sees fewer; EKFAC alone takes a second pass
    for name, metric in zip(TOGETHER, together, strict=True):
        alone = make_metric(name)
        fit_metrics([alone], run)
        assert metric_fingerprint(alone) == metric_fingerprint(metric)


@pytest.mark.parametrize("name", ["identity", "diagonal", "diagonal-uncentred", "kfac"])
def test_an_update_is_a_fit_of_all_with_the_first_fits_damping(module, name):
    grown, whole, reloaded = make_metric(name), make_metric(name), make_metric(name)
    fit_metrics([grown], passes_over(module, samples(40)[:26]))
    first = grown.state()
    update_metrics([grown], passes_over(module, 3 * samples(40)[26:]))
    fit_metrics([whole], passes_over(module, np.concatenate([samples(40)[:26], 3 * samples(40)[26:]])))
    dampings = {k: v for k, v in first.items() if k.startswith("damping:")}
    assert bool(dampings) == (name != "identity")
    if dampings:
        assert any(whole.state()[k] > 1.5 * v for k, v in dampings.items())
    reloaded.restore({**whole.state(), **dampings})
    block, new = f"metric:{name}", samples(5, seed=1)
    expected = measured(reloaded, module, new)[block]
    np.testing.assert_allclose(measured(grown, module, new)[block], expected, rtol=1e-9)


def test_an_update_keeps_bases_and_dampings(module):
    metrics = [make_metric(name) for name in ("ekfac", "low-rank", "whitened", "diagonal", "kfac")]
    fit_metrics(metrics, passes_over(module, samples(25)))
    before = [metric.state() for metric in metrics]
    update_metrics(metrics, passes_over(module, samples(40)[25:]))
    after = [metric.state() for metric in metrics]
    for old, new in zip(before, after, strict=True):
        for key in old:
            if key.startswith(("left:", "right:", "damping:")):
                np.testing.assert_array_equal(old[key], new[key])
    assert after[0]["count:scale"] == 40 and after[1]["rows:scale"].shape == (40, 6)


def test_constant_gradients_are_refused(module):
    same = np.repeat(samples(1), 12, axis=0)
    for name in ("identity", "diagonal", "kfac", "ekfac", "low-rank", "low-rank-global", "whitened", "equalised"):
        with pytest.raises(DataError, match=r"gradients (of all fit samples )?are (all )?the same"):
            fit_metrics([make_metric(name)], passes_over(module, same))


def test_a_silent_parameter_is_left_out():
    class Silent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.unused = torch.nn.Parameter(torch.ones(3))
            self.linear = torch.nn.Linear(4, 2)
            self.double()

        def log_prob(self, x):
            return -self.linear(x[:, 0]).square().sum(1)

    module, x = Silent(), samples(20)

    def run(reductions, limit):
        gradient_pass(module, torch.from_numpy(x), reductions, log_prob=log_prob)

    for name in ("diagonal", "kfac", "ekfac", "low-rank", "whitened"):
        metric = make_metric(name)
        fit_metrics([metric], run)
        for block in measured(metric, module, x).values():
            assert np.isfinite(block).all()
        if name == "diagonal":
            block = measured(metric, module, x)["metric:diagonal"][:, 0]
            assert not block[:, 0].any() and block[:, 1:].all()


def test_a_metric_must_be_fitted_first():
    with pytest.raises(NotFittedError, match="'diagonal' was used before it was fitted"):
        metric_fingerprint(make_metric("diagonal"))


def test_a_file_that_was_changed_or_is_something_else(module, tmp_path):
    metric = make_metric("diagonal")
    fit_metrics([metric], passes_over(module, samples(20)))
    path = tmp_path / "m.safetensors"
    save_metric(metric, path)
    arrays, card = read_arrays(path)
    write_arrays(path, {**arrays, "sum:scale": arrays["sum:scale"] + 1}, card)
    with pytest.raises(CardMismatchError, match="'fingerprint'"):
        load_metric(path)
    write_arrays(path, arrays, {"other": 1})
    with pytest.raises(DataError, match="is not a saved metric"):
        load_metric(path)


def test_unknown_metric():
    with pytest.raises(SettingError, match="unknown metric 'nope'; known: identity, identity-uncentred"):
        make_metric("nope")
