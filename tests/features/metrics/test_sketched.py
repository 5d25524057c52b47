"""Sketches as the linear maps they are, and Rao's statistic of them against the dense Fisher matrix, given R."""

import numpy as np
import pytest
import torch
from metric_reference import Tiny, flat, gradients, measured, passes_over, samples

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.core.table import SKETCH_KINDS, Card, FeatureTable
from fisherscope.detectors.rao import RaoSketch
from fisherscope.features.gradients import gradient_pass
from fisherscope.features.gradients.forms import DenseForm, matrix_view
from fisherscope.features.metrics import SketchSettings, fit_metrics, make_metric
from fisherscope.features.metrics.factors import whitening
from fisherscope.features.metrics.sketched import Sketched

SETTINGS = SketchSettings(size=24, layer_size=16, projection_seed=5)


@pytest.fixture(scope="module")
def module():
    return Tiny()


def fitted(kind, module, n=40):
    metric = make_metric(kind, SETTINGS)
    fit_metrics([metric], passes_over(module, samples(n)))
    return metric


def matrix_of(metric, module):
    """R, (K, P), by sketching the unit vectors."""
    total = sum(p.numel() for p in module.parameters())
    reduction = metric.features()[0].reduction(module, 1)
    start = 0
    for name, p in module.named_parameters():
        units = torch.zeros(total, p.numel(), dtype=torch.float64)
        units[start : start + p.numel()] = torch.eye(p.numel(), dtype=torch.float64)
        reduction.update(name, DenseForm(units.reshape(total, *p.shape)))
        start += p.numel()
    return reduction.result([n for n, _ in module.named_parameters()]).numpy().T


def table_of(metric, module, x, group_size):
    blocks = measured(metric, module, x, group_size)
    n = len(x) // group_size
    return FeatureTable(
        blocks={k: v for k, v in blocks.items() if k.startswith("sketch")},
        columns={},
        ids=tuple(tuple(f"{i}.{j}" for j in range(group_size)) for i in range(n)),
        keys=sample_keys(x).reshape(n, group_size),
        card=Card("m", "m", "d", "d", group_size, 0, "float64"),
    )


@pytest.mark.parametrize("kind", ["gaussian", *SKETCH_KINDS])
@pytest.mark.parametrize("group_size", [1, 3])
def test_rao_of_a_sketch_against_the_dense_fisher_matrix(module, kind, group_size):
    metric = fitted(kind, module)
    r = matrix_of(metric, module)
    fit, new = flat(gradients(module, samples(42))), flat(gradients(module, samples(6, seed=1)))
    detector = RaoSketch("rao", f"sketch:{kind}").fit(table_of(metric, module, samples(42), group_size))
    m = fit.mean(0)
    fisher = sum(np.outer(s - m, s - m) for s in fit) / len(fit)
    inverse = np.linalg.inv(group_size * (r @ fisher @ r.T + detector.damping_ * np.eye(len(r))))
    d = new.reshape(-1, group_size, new.shape[1]).sum(1) - group_size * m
    want = [(r @ row) @ inverse @ (r @ row) for row in d]
    got = detector.score(table_of(metric, module, samples(6, seed=1), group_size))
    np.testing.assert_allclose(got, want, rtol=1e-8)


def test_a_countsketch_has_one_sign_a_column(module):
    r = matrix_of(fitted("countsketch", module), module)
    assert set(np.abs(r).sum(0)) == {1.0} and set(np.unique(r)) == {-1.0, 0.0, 1.0}


def test_a_dense_gaussian_sketch_keeps_lengths_on_average(module):
    x = samples(30)
    lengths = np.square(flat(gradients(module, x))).sum(1)
    ratios = []
    for seed in range(40):
        metric = make_metric("gaussian", SketchSettings(size=24, projection_seed=seed))
        sketch = measured(metric, module, x)["sketch:gaussian"][:, 0]
        ratios.append(np.square(sketch).sum(1) / lengths)
    mean, error = np.mean(ratios), np.std(np.mean(ratios, axis=1)) / np.sqrt(40)
    assert abs(mean - 1) < 4 * error < 0.2


def test_equalised_tensors_have_equal_mean_squared_size(module):
    metric = fitted("equalised", module)
    layers = measured(metric, module, samples(40))["layer_sketch:equalised"][:, 0]
    raw = gradients(module, samples(40))
    for i, (name, _) in enumerate(module.named_parameters()):
        size = np.square(raw[name] - raw[name].mean(0)).sum((1, 2)).mean()
        projection = metric.state()[f"left:{name}"], metric.state()[f"right:{name}"]
        side = next(p for p in projection if p.size)
        np.testing.assert_allclose(side, np.eye(len(side)) / np.sqrt(size), rtol=1e-10)
        assert layers.shape == (40, 16, 4) and layers[..., i].any()


def test_whitened_projections_invert_the_factors(module):
    """With no random rows (small tensors) left and right are roots of the damped inverse factors."""
    metric = fitted("whitened", module, n=20)
    factors = metric._factors.factors("whitened")
    assert set(factors) == {"conv.weight", "linear.weight"}
    for name, f in factors.items():
        for side, matrix in (("left", f.outputs), ("right", f.inputs)):
            w = metric.state()[f"{side}:{name}"]
            damped = matrix.numpy() + 0.01 * np.trace(matrix.numpy()) / len(matrix) * np.eye(len(matrix))
            np.testing.assert_allclose(w @ damped @ w.T, np.eye(len(w)), atol=1e-8)
    bias = metric.state()["left:linear.bias"]
    variance = gradients(module, samples(20))["linear.bias"][..., 0].var(0)
    np.testing.assert_allclose(bias**-2.0, variance + 0.01 * variance.mean(), rtol=1e-8)


@pytest.mark.parametrize("rank", [3, 12])
def test_the_inverse_root_is_determined_by_its_matrix_whatever_the_rank(rank):
    """Eigenvectors are not: those of a repeated eigenvalue, as the 0 of a rank-deficient factor, come as they like."""
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(rank, 9)))
    root, again = (whitening(part.mT @ part / rank, 0.01) for part in (rows, rows.flip(0)))
    np.testing.assert_allclose(again, root, rtol=1e-9, atol=1e-9 * float(root.abs().max()))
    np.testing.assert_allclose(root, root.mT, rtol=1e-12)
    damped = rows.mT @ rows / rank
    damped = damped + 0.01 * damped.trace() / 9 * torch.eye(9, dtype=torch.float64)
    np.testing.assert_allclose(root @ damped @ root, np.eye(9), atol=1e-10)


def test_one_sided_whitening_leaves_the_other_side_raw(module):
    inputs, outputs = fitted("whitened-inputs", module).state(), fitted("whitened-outputs", module).state()
    both = fitted("whitened", module).state()
    assert not inputs["left:linear.weight"].size and not outputs["right:linear.weight"].size
    np.testing.assert_array_equal(inputs["right:linear.weight"], both["right:linear.weight"])
    np.testing.assert_array_equal(outputs["left:linear.weight"], both["left:linear.weight"])
    assert not inputs["left:scale"].size and not inputs["right:scale"].size


def test_a_model_with_large_layers_gets_rows_times_roots():
    torch.manual_seed(0)
    module = torch.nn.Linear(80, 70, bias=False).double()
    x = np.random.default_rng(0).normal(size=(30, 80)) * np.linspace(0.1, 3, 80)

    def run(reductions, limit):
        gradient_pass(module, torch.from_numpy(x), reductions, log_prob=lambda m, v: -m(v).square().sum(1))

    metric = Sketched("whitened", "whitened", SETTINGS)
    fit_metrics([metric], run)
    left, right = metric.state()["left:weight"], metric.state()["right:weight"]
    assert left.shape == (2, 70) and right.shape == (4, 80)


def test_unknown_kind():
    with pytest.raises(SettingError, match="kind of sketch is 'nope', expected one of countsketch"):
        Sketched("a", "nope")


@pytest.mark.parametrize("kind", ["whitened", "equalised"])
@pytest.mark.parametrize("group_size", [1, 3])
def test_sketch_norms_are_the_lengths_of_the_projected_group_gradients(module, kind, group_size):
    metric, x = fitted(kind, module), samples(6, seed=1)
    block = measured(metric, module, x, group_size)[f"sketch_norm:{kind}"]
    assert block.shape == (6 // group_size, len(list(module.parameters())))
    shapes = {name: p.shape for name, p in module.named_parameters()}
    for i, (name, each) in enumerate(gradients(module, x).items()):
        projection = metric._projections[name]
        views = each.reshape(-1, group_size, *matrix_view(shapes[name])).sum(1)
        left = np.eye(views.shape[1]) if projection.left is None else projection.left.numpy()
        right = np.eye(views.shape[2]) if projection.right is None else projection.right.numpy()
        left = np.diag(left) if left.ndim == 1 else left
        np.testing.assert_allclose(block[:, i], np.square(left @ views @ right.T).sum((1, 2)), rtol=1e-9)
