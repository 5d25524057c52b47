"""Fitting together, in one or several parts; files."""

import numpy as np
import pytest
import torch
from metric_reference import Tiny, log_prob, measured, passes_over, samples
from torch import nn

from fisherscope.core.errors import CardMismatchError, DataError, ModelError, NotFittedError, SettingError
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.features.gradients import gradient_pass
from fisherscope.features.metrics import (
    fit_metrics,
    load_metric,
    make_metric,
    metric_fingerprint,
    metric_names,
    save_metric,
    update_metrics,
)
from fisherscope.features.metrics.low_rank import LowRank

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
    assert passes == [(3, None), (2, 256), (1, None)]  # two see fewer; EKFAC alone takes a second pass
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


@pytest.mark.parametrize("n", [10, 8], ids=["full", "two places left"])
def test_an_update_that_finds_no_room_is_refused(module, n):
    metric = LowRank("a", max_samples=10)
    fit_metrics([metric], passes_over(module, samples(n)))
    before = metric.state()
    with pytest.raises(DataError, match=rf"'a' keeps .* at most 10 .* room for {10 - n} more; .*fit it again"):
        update_metrics([metric], passes_over(module, samples(3, seed=1)))
    for name, value in before.items():
        np.testing.assert_array_equal(metric.state()[name], value)


def test_nothing_is_taken_in_when_a_metric_is_full(module):
    full, other = LowRank("a", max_samples=10), make_metric("diagonal")
    fit_metrics([full, other], passes_over(module, samples(12)))
    before = metric_fingerprint(other)
    with pytest.raises(DataError, match="keeps the gradients of at most 10"):
        update_metrics([other, full], passes_over(module, samples(3, seed=1)))
    assert metric_fingerprint(other) == before


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


class Root(torch.nn.Module):
    """Its log p of a sample of zeros is 0, the gradient NaN; so is that of the other layer for a sample of ones."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale = torch.nn.Parameter(torch.rand(4).double())
        self.linear = torch.nn.Linear(4, 3, bias=False).double()

    def log_prob(self, x):
        root = (x[:, 0] * self.scale).square().sum(1).sqrt()
        return -root - self.linear(x[:, 0] - 1).square().sum(1).sqrt()


LEARNING = [n for n in metric_names() if make_metric(n).stages and n != "countsketch"]


@pytest.mark.parametrize(("value", "parameter"), [(0.0, "scale"), (1.0, "linear.weight")])
@pytest.mark.parametrize("name", LEARNING)
def test_a_gradient_that_is_not_finite_is_refused_by_name(name, value, parameter):
    x = samples(20)
    x[16] = value
    with pytest.raises(DataError, match=f"gradient of '{parameter}' is NaN or infinite for fit sample 16 "):
        fit_metrics([make_metric(name)], passes_over(Root(), x))


NEED_FACTORS = ("kfac", "ekfac-uncentred", "whitened", "whitened-inputs", "whitened-outputs")


@pytest.mark.parametrize("name", NEED_FACTORS)
def test_a_model_without_factors_is_refused_by_name(name):
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(4).double())
            self.shift = torch.nn.Parameter(torch.zeros(4).double())

        def log_prob(self, x):
            return -(self.scale * x[:, 0] - self.shift).square().sum(1)

    with pytest.raises(ModelError, match=f"'{name}' needs the Kronecker factors .* none .*: scale, shift; measure in"):
        fit_metrics([make_metric(name)], passes_over(Bare(), samples(20)))


@pytest.mark.parametrize("name", NEED_FACTORS)
def test_factors_of_some_samples_only_are_refused(module, name):
    def run(reductions, limit):
        for start, method in ((0, "batched"), (12, "loop")):
            part = torch.from_numpy(samples(20)[start : start + 12])
            gradient_pass(module, part, reductions, log_prob=log_prob, method=method)

    with pytest.raises(ModelError, match=r"'.*' got Kronecker factors of .*conv.weight for 12 of 20 samples"):
        fit_metrics([make_metric(name)], run)


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


class _Tempered(Tiny):
    """With a scalar parameter."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def log_prob(self, x):
        return super().log_prob(x) * self.temperature - self.temperature


@pytest.mark.parametrize("name", [n for n in metric_names() if n != "identity"])
def test_a_parameter_may_be_a_scalar(name):
    module, metric = _Tempered(), make_metric(name)
    fit_metrics([metric], passes_over(module, samples(40)))
    blocks = measured(metric, module, samples(8, seed=1), 2)
    assert blocks and all(np.isfinite(block).all() for block in blocks.values())
