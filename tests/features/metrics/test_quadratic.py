"""Squared lengths against the dense Fisher matrix of a tiny model, float64."""

import numpy as np
import pytest
import torch
from metric_reference import Tiny, evenly_spaced, flat, gradients, measured, passes_over, samples
from scipy import stats
from torch import nn

from fisherscope.core.keys import sample_keys
from fisherscope.features.extractors import GradientBlocks, Request
from fisherscope.features.gradients import gradient_pass
from fisherscope.features.metrics import fit_metrics, make_metric
from fisherscope.features.metrics.low_rank import LowRank

N = 40
LAYERS = ("scale", "conv.weight", "linear.weight", "linear.bias")


@pytest.fixture(scope="module")
def module():
    return Tiny()


def fitted(name, module):
    metric = make_metric(name)
    fit_metrics([metric], passes_over(module, samples(N)))
    return metric


def dense_fisher(g, centred):
    """The mean and the Fisher matrix (n_l, n_l) of one parameter's gradients, the plain way."""
    rows = g.reshape(len(g), -1)
    m = rows.mean(0) if centred else np.zeros(rows.shape[1])
    matrix = np.zeros((rows.shape[1],) * 2)
    for row in rows:
        matrix += np.outer(row - m, row - m) / len(rows)
    return m, matrix


def lengths(new, m, matrix, group_size):
    """d^T (B M)^-1 d by an explicit inverse."""
    groups = new.reshape(-1, group_size, *new.shape[1:]).sum(1).reshape(len(new) // group_size, -1)
    inverse = np.linalg.inv(group_size * matrix)
    return np.array([(d - group_size * m) @ inverse @ (d - group_size * m) for d in groups])


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", ["identity", "diagonal", "low-rank"])
def test_layer_by_layer_against_the_dense_fisher_matrix(module, name, centred, group_size):
    metric = fitted(name if centred else f"{name}-uncentred", module)
    new = samples(8, seed=1)
    block = measured(metric, module, new, group_size)[f"metric:{metric.name}"]
    assert block.shape == (8 // group_size, group_size, 4)
    fit, test = gradients(module, samples(N)), gradients(module, new)
    for i, layer in enumerate(LAYERS):
        m, fisher = dense_fisher(fit[layer], centred)
        size = len(fisher)
        matrix = {
            "identity": np.eye(size),
            "diagonal": np.diag(np.diag(fisher) + 1e-2 * np.diag(fisher).mean()),
            "low-rank": fisher + float(metric.state().get(f"damping:{layer}", 0)) * np.eye(size),
        }[name]
        want = lengths(test[layer], m, matrix, group_size)
        np.testing.assert_allclose(block.sum(1)[:, i], want, rtol=1e-8)


@pytest.mark.parametrize("centred", [True, False])
def test_global_low_rank_against_the_dense_fisher_matrix(module, centred):
    metric = fitted("low-rank-global" if centred else "low-rank-global-uncentred", module)
    new = samples(6, seed=1)
    block = measured(metric, module, new, 2)[f"metric:{metric.name}"]
    m, fisher = dense_fisher(flat(gradients(module, samples(N))), centred)
    matrix = fisher + float(metric.state()["damping:(all)"]) * np.eye(len(fisher))
    want = lengths(flat(gradients(module, new)), m, matrix, 2)
    np.testing.assert_allclose(block.sum(1)[:, 0], want, rtol=1e-8)


@pytest.mark.parametrize("centred", [True, False])
def test_low_rank_damping_has_the_highest_leave_one_out_likelihood(module, centred):
    metric = fitted("low-rank-global" if centred else "low-rank-global-uncentred", module)
    rows = flat(gradients(module, samples(N)))
    chosen = float(metric.state()["damping:(all)"])

    def likelihood(damping):
        total = 0.0
        for i in range(N):
            others = np.delete(rows, i, 0)
            m = others.mean(0) if centred else np.zeros(rows.shape[1])
            matrix = (others - m).T @ (others - m) / N + damping * np.eye(rows.shape[1])
            total += stats.multivariate_normal.logpdf(rows[i], m, matrix)
        return total

    best = likelihood(chosen)
    assert best > likelihood(chosen * 1.5) and best > likelihood(chosen / 1.5)


def linear_factors(module, x):
    """A and G of the linear map and of the convolution as docs/metrics.md defines them, from hooks on the modules."""
    seen = {}
    handles = []
    for name in ("conv", "linear"):
        layer = getattr(module, name)

        def hook(_, inputs, output, name=name):
            a = inputs[0].detach()
            if name == "conv":
                a = torch.nn.functional.unfold(a, 3, padding=1).mT
            seen.setdefault(name, []).append((a.reshape(-1, a.shape[-1]), output))

        handles.append(layer.register_forward_hook(hook))
    factors = {name: [0, 0, 0] for name in ("conv", "linear")}
    for one in torch.from_numpy(x):
        seen.clear()
        value = module.log_prob(one[None]).sum()
        for name, ((a, output),) in seen.items():
            (g,) = torch.autograd.grad(value, output, retain_graph=True)
            g = g.movedim(1, -1).reshape(-1, 3) if name == "conv" else g.reshape(-1, 3)
            factors[name][0] += (a.T @ a).numpy()
            factors[name][1] += (g.T @ g).numpy() / len(x)
            factors[name][2] += len(a)
    for handle in handles:
        handle.remove()
    return {f"{name}.weight": (a / positions, g) for name, (a, g, positions) in factors.items()}


def damped(matrix):
    return matrix + 1e-2 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("centred", [True, False])
def test_kfac_by_its_own_definition(module, centred, group_size):
    metric = fitted("kfac" if centred else "kfac-uncentred", module)
    new = samples(8, seed=1)
    block = measured(metric, module, new, group_size)[f"metric:{metric.name}"].sum(1)
    fit, test = gradients(module, samples(N)), gradients(module, new)
    for layer, (a, g) in linear_factors(module, samples(N)).items():
        m, _ = dense_fisher(fit[layer], centred)
        want = lengths(test[layer], m, np.kron(damped(g), damped(a)), group_size)
        np.testing.assert_allclose(block[:, LAYERS.index(layer)], want, rtol=1e-8)
    for layer in ("linear.bias", "scale"):
        m, fisher = dense_fisher(fit[layer], centred)
        matrix = np.diag(np.diag(fisher) + 1e-2 * np.diag(fisher).mean())
        np.testing.assert_allclose(
            block[:, LAYERS.index(layer)], lengths(test[layer], m, matrix, group_size), rtol=1e-8
        )


@pytest.mark.parametrize("centred", [True, False])
def test_ekfac_has_the_true_moments_in_the_eigenbasis(module, centred):
    metric = fitted("ekfac" if centred else "ekfac-uncentred", module)
    new = samples(8, seed=1)
    block = measured(metric, module, new, 2)[f"metric:{metric.name}"].sum(1)
    fit, test = gradients(module, samples(N)), gradients(module, new)
    for layer, (a, g) in linear_factors(module, samples(N)).items():
        m, fisher = dense_fisher(fit[layer], centred)
        basis = np.kron(np.linalg.eigh(g)[1], np.linalg.eigh(a)[1])
        moments = np.diag(basis.T @ fisher @ basis)
        matrix = basis @ np.diag(moments + 1e-2 * moments.mean()) @ basis.T
        want = lengths(test[layer], m, matrix, 2)
        np.testing.assert_allclose(block[:, LAYERS.index(layer)], want, rtol=1e-8)


def test_low_rank_keeps_an_even_choice_of_the_fit_samples_and_runs_no_others(module):
    metric, chosen = LowRank("a", max_samples=10), LowRank("b", max_samples=10)
    shown = []
    every = passes_over(module, samples(N))

    def run(reductions, limit):
        shown.append(limit)
        every(reductions, limit)

    fit_metrics([metric], run)
    fit_metrics([chosen], passes_over(module, samples(N)[evenly_spaced(N, 10)]))
    assert shown == [10] and metric.state()["rows:scale"].shape == (10, 6)
    for name, value in metric.state().items():
        np.testing.assert_allclose(value, chosen.state()[name], rtol=1e-10)


@pytest.mark.parametrize("name", ["low-rank", "low-rank-global"])
def test_float32_leaves_something_where_damping_is_small(name):
    """Gradients of rank 3 in 3,000 dimensions and hardly any noise: a length is what two large numbers differ by."""

    def rows(n, seed):
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(n, 3)) @ np.random.default_rng(0).normal(size=(3, 3000))
        return np.concatenate([inputs, rng.normal(size=(n, 1))], 1)

    def lengths_of(dtype, batches):
        linear = nn.Linear(3000, 1, bias=False)
        with torch.no_grad():
            linear.weight.copy_(1e-3 * torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3000))))
        linear.to(dtype)

        def log_p(module, x):
            return -(x[:, -1].to(dtype) - module(x[:, :-1].to(dtype))[:, 0]).square() / 2

        metric = make_metric(name)

        def run(reductions, limit):
            x = torch.from_numpy(rows(100, 2)).to(dtype)
            gradient_pass(linear, x, reductions, log_prob=log_p)

        fit_metrics([metric], run)
        new = rows(20, 3).astype(np.float32 if dtype is torch.float32 else np.float64)
        requests = (Request(linear, log_p, part, sample_keys(part), 1) for part in np.split(new, batches))
        return np.concatenate(
            [GradientBlocks(metric.features()).extract(r)[f"metric:{name}"].sum((1, 2)) for r in requests]
        )

    together, alone = lengths_of(torch.float32, 1), lengths_of(torch.float32, 20)
    np.testing.assert_allclose(alone, together, rtol=2e-2)
    exact = lengths_of(torch.float64, 1)
    assert stats.spearmanr(together, exact).statistic > 0.9
