"""Factored sketches: linear, unbiased, of the stated variance, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch
from gradient_reference import Model, call, normal, parameter
from torch import nn

from fisherscope.core.errors import SettingError
from fisherscope.features.gradients import (
    GroupGradients,
    Projection,
    Sketch,
    SketchedNorms,
    SquaredNorms,
    forms,
    gradient_pass,
    gradient_sketch,
    random_projection,
)
from fisherscope.features.gradients.forms import DenseForm, OuterForm
from fisherscope.features.gradients.sketch import projection_ranks
from fisherscope.features.gradients.table_form import RowsForm, TiedForm

SCRIPT = """
import torch
from fisherscope.features.gradients import Sketch, random_projection
from fisherscope.features.gradients.forms import DenseForm
sketch = Sketch(64, projection_seed=3)
sketch.update("w", DenseForm(torch.arange(2.0 * 80 * 90).reshape(2, 80, 90).double()))
print(sketch.result(["w"]).sum(0)[:5].tolist(), random_projection("w", (80, 90), 64, 3).left[0, :3].tolist())
"""


def wide_model() -> Model:
    torch.manual_seed(0)
    return Model(
        lambda m, x: m.out(torch.tanh(m.conv(x) * m.scale).flatten(1)) + m.bias,
        conv=nn.Conv2d(20, 30, 3),
        scale=parameter(30, 1, 1),
        out=nn.Linear(480, 40),
        bias=parameter(40),
    )


def test_ranks_grow_with_the_size():
    assert [projection_ranks(k) for k in (32, 512, 2048)] == [(2, 4), (8, 16), (16, 32)]


def test_sketch_is_linear_whatever_the_path():
    model, x = wide_model(), normal(6, 20, 6, 6)
    single = gradient_sketch(model, x, log_prob=call, size=64)
    assert single.shape == (6, 64)
    groups = gradient_sketch(model, x, log_prob=call, size=64, group_size=3)
    torch.testing.assert_close(groups, single.view(2, 3, 64).sum(1), rtol=1e-9, atol=1e-9)
    cut = gradient_sketch(model, x, log_prob=call, size=64, max_memory=1)
    torch.testing.assert_close(cut, single, rtol=1e-9, atol=1e-9)
    layers = gradient_sketch(model, x, log_prob=call, size=64, per_layer=True)
    assert list(layers) == [name for name, _ in model.named_parameters()]
    torch.testing.assert_close(sum(layers.values()), single, rtol=1e-9, atol=1e-9)
    loop = gradient_pass(model, x, [Sketch(64)], log_prob=call, method="loop").results[0]
    torch.testing.assert_close(loop, single, rtol=1e-9, atol=1e-9)
    other = gradient_sketch(model, x, log_prob=call, size=64, projection_seed=1)
    assert not torch.allclose(other, single)


def test_inner_products_are_unbiased_over_a_thousand_seeds():
    model, x = wide_model(), normal(3, 20, 6, 6)
    gradients = gradient_pass(model, x, [GroupGradients()], log_prob=call).results[0]
    forms = {name: DenseForm(g) for name, g in gradients.items()}
    exact = sum(g.flatten(1) @ g.flatten(1).T for g in gradients.values())
    products = []
    for seed in range(1000):
        sketch = Sketch(64, projection_seed=seed)
        for name, form in forms.items():
            sketch.update(name, form)
        s = sketch.result(list(forms))
        products.append(s @ s.T)
    stacked = torch.stack(products)
    error = (stacked.mean(0) - exact).abs() / (stacked.std(0) / 1000**0.5)
    assert error.max() < 4.5, error


def test_variance_for_a_rank_one_gradient_is_as_stated():
    g, a = normal(80, seed=1), normal(90, seed=2)
    form = OuterForm(g.view(1, 1, -1), a.view(1, 1, -1), (80, 90))
    exact = g.square().sum() * a.square().sum()
    ratios = []
    for seed in range(4000):
        sketch = Sketch(512, projection_seed=seed)
        sketch.update("w", form)
        ratios.append(sketch.result(["w"]).square().sum() / exact)
    found = torch.stack(ratios)
    stated = (1 + 2 / 8) * (1 + 2 / 16) - 1
    # the buckets add 2 (|s|^4 - sum s_i^4) / K: at most 2 / K of the mean fourth moment, 1 + stated
    assert abs(found.mean() - 1) < 4 * found.std() / 4000**0.5
    assert 0.8 * stated < found.var() < 1.25 * (stated + 2 / 512 * (1 + stated))


def test_norms_are_exact_for_matrices_and_unbiased_for_kernels():
    model, x = wide_model(), normal(6, 20, 6, 6)
    exact = gradient_pass(model, x, [SquaredNorms()], log_prob=call, group_size=2).results[0]
    seeds = [SketchedNorms(projection_seed=seed) for seed in range(400)]
    found = gradient_pass(model, x, seeds, log_prob=call, group_size=2).results
    for name in ("scale", "out.weight", "out.bias", "bias"):
        torch.testing.assert_close(found[0][name], exact[name], rtol=1e-12, atol=0)
    kernels = torch.stack([norms["conv.weight"] for norms in found]) / exact["conv.weight"]
    assert ((kernels.mean(0) - 1).abs() < 4 * kernels.std(0) / 400**0.5).all()
    assert kernels.std(0).min() > 0.05


@pytest.mark.parametrize("method", ["batched", "loop"])
def test_norms_do_not_depend_on_who_else_is_in_the_batch(method):
    model, x = wide_model(), normal(6, 20, 6, 6)
    together = gradient_pass(model, x, [SketchedNorms()], log_prob=call).results[0]
    alone = gradient_pass(model, x[4:5], [SketchedNorms()], log_prob=call, method=method).results[0]
    for name, norms in together.items():
        torch.testing.assert_close(alone[name], norms[4:5], rtol=1e-9, atol=0)


def test_the_same_in_every_process():
    command = [sys.executable, "-c", SCRIPT]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with redirect_stdout(StringIO()) as here:
        exec(SCRIPT, {})
    assert there == here.getvalue() != ""


def test_given_projections_replace_the_random_ones():
    model, x = wide_model(), normal(4, 20, 6, 6)
    left, right = normal(5, 40, seed=1), normal(6, 480, seed=2)
    gradients = gradient_pass(model, x, [GroupGradients()], log_prob=call).results[0]
    projections = {"out.weight": Projection(left, right), "conv.weight": Projection(None, normal(7, 180, seed=3))}
    found = gradient_sketch(model, x, log_prob=call, projections=projections, per_layer=True)
    dense = gradient_pass(
        model, x, [Sketch(projections=projections, per_layer=True)], log_prob=call, method="loop"
    ).results[0]
    for name in found:
        torch.testing.assert_close(found[name], dense[name], rtol=1e-9, atol=1e-9)
    # signed buckets keep the norm up to collisions of the 30 entries
    entries = torch.einsum("qr,mrc,pc->mqp", left, gradients["out.weight"], right).flatten(1)
    assert torch.allclose(found["out.weight"].abs().sum(1), entries.abs().sum(1), rtol=0.2)
    bad = {"out.weight": Projection(None, normal(6, 481))}
    with pytest.raises(SettingError, match=r"right projection is \(6, 481\); expected \(any, 480\)"):
        gradient_sketch(model, x, log_prob=call, projections=bad)
    with pytest.raises(SettingError, match="'nothing'"):
        gradient_sketch(model, x, log_prob=call, projections={"nothing": Projection(None, None)})


def test_small_tensors_are_not_projected_and_large_ones_are():
    assert random_projection("w", (5000,)) == Projection(None, None)
    assert random_projection("w", (32, 32)) == Projection(None, None)
    middling = random_projection("w", (33, 32))
    assert middling.left.shape == (8, 33) and middling.right.shape == (16, 32)
    large = random_projection("w", (4, 64, 5, 5))
    assert large.left is None and large.right.shape == (16, 1600)


def test_forms_of_a_tied_table_agree_with_their_dense_gradients():
    rows = RowsForm(torch.tensor([[0, 2, 2], [1, 1, 4]]), normal(2, 3, 6), (5, 6))
    outer = OuterForm(normal(2, 4, 5, seed=1), normal(2, 4, 6, seed=2), (5, 6))
    left, right = normal(3, 5, seed=3), normal(2, 6, seed=4)
    for form in (rows, outer, TiedForm(rows, outer)):
        dense = DenseForm(form.dense())
        torch.testing.assert_close(form.squared_norm(), dense.squared_norm())
        for a in (left, None):
            for b in (right, None):
                torch.testing.assert_close(form.project(a, b), dense.project(a, b))


@pytest.mark.parametrize(("positions", "narrow"), [(9, True), (1, False)])
def test_an_outer_form_is_projected_in_the_cheaper_order(monkeypatch, positions, narrow):
    orders = []
    chosen = forms._narrow_first
    monkeypatch.setattr(forms, "_narrow_first", lambda *given: orders.append(chosen(*given)) or orders[-1])
    form = OuterForm(normal(6, positions, 5, seed=1), normal(6, positions, 7, seed=2), (5, 7), n_groups=3)
    left, right = normal(2, 5, seed=3), normal(4, 7, seed=4)
    expected = left @ form.dense() @ right.mT
    torch.testing.assert_close(form.project(left, right), expected, rtol=1e-12, atol=1e-12)
    assert orders == [narrow]


def test_a_diagonal_projection_is_that_matrix_without_its_zeros():
    model = Model(lambda m, x: m.a(x), a=nn.Linear(5, 4))
    diagonal = {"a.weight": normal(4, seed=2), "a.bias": normal(4, seed=3)}
    sketches = [
        gradient_sketch(
            model,
            normal(6, 5),
            log_prob=call,
            size=64,
            projections={name: Projection(made(values), None) for name, values in diagonal.items()},
        )
        for made in (lambda values: values, torch.diag)
    ]
    torch.testing.assert_close(*sketches, rtol=1e-12, atol=0)
    with pytest.raises(SettingError, match="left projection"):
        Projection(normal(3), None).size((4, 5))


def test_parameters_that_touch_nothing_are_zeros_as_in_the_loop():
    torch.manual_seed(0)
    model = Model(
        lambda m, x: m.used(x), used=nn.Linear(3, 2), wide=nn.Linear(40, 50), cube=parameter(4, 20, 3, 3)
    )  # of a VAE's prior, say, the decoder
    given = {"wide.weight": Projection(normal(50), normal(3, 40, seed=1)), "cube": Projection(None, normal(2, 180))}
    kinds = [SquaredNorms, GroupGradients, SketchedNorms, Sketch]
    for projections in (None, given):
        batched, looped = (
            gradient_pass(
                model,
                normal(6, 3),
                [*(kind() for kind in kinds), Sketch(64, projections=projections, per_layer=True)],
                log_prob=call,
                group_size=2,
                method=method,
            )
            for method in ("batched", "loop")
        )
        torch.testing.assert_close(batched.results, looped.results, rtol=1e-10, atol=1e-12)
    for name in ("wide.weight", "wide.bias", "cube"):
        assert all(not found[name].any() for found in (*batched.results[:3], batched.results[4]))
