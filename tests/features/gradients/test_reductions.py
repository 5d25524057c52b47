"""What one pass can keep besides norms, against brute force on the gradients of the loop."""

from __future__ import annotations

import pytest
import torch
from gradient_reference import Model, assert_close_norms, call, normal, parameter
from torch import nn

from fisherscope.core.errors import SettingError
from fisherscope.features.gradients import (
    GramBlocks,
    GroupGradients,
    Kronecker,
    SquaredNorms,
    SquareSums,
    gradient_norms,
    gradient_pass,
    rules_report,
)
from fisherscope.features.gradients.uses import Passes


def image_model() -> Model:
    torch.manual_seed(0)
    return Model(
        lambda m, x: m.head(torch.tanh(m.up(torch.tanh(m.conv(x)) * m.scale)).flatten(1)),
        conv=nn.Conv2d(2, 4, 3, stride=2, padding=1),
        up=nn.ConvTranspose2d(4, 3, 2),
        scale=parameter(4, 1, 1),
        head=nn.Linear(48, 5),
        unused=nn.Linear(2, 2),
    )


def test_one_pass_feeds_all_reductions():
    model, x = image_model(), normal(6, 2, 6, 6)
    kinds = [SquaredNorms, GroupGradients, SquareSums, GramBlocks]
    for group_size in (1, 3):
        done = gradient_pass(model, x, [kind() for kind in kinds], log_prob=call, group_size=group_size)
        reference = gradient_pass(model, x, [GroupGradients()], log_prob=call, group_size=group_size, method="loop")
        torch.testing.assert_close(done.log_p, model(x).detach())
        torch.testing.assert_close(reference.log_p, model(x).detach())
        norms, gradients, squares, grams = done.results
        for name, expected in reference.results[0].items():
            rows = expected.flatten(1)
            close = {"rtol": 1e-10, "atol": 1e-12}
            torch.testing.assert_close(gradients[name], expected, **close)
            torch.testing.assert_close(norms[name], rows.square().sum(1), **close)
            torch.testing.assert_close(squares[name], expected.square().sum(0), **close)
            torch.testing.assert_close(grams[name], rows @ rows.T, **close)


def test_kronecker_factors_follow_their_definition():
    model, x = image_model(), normal(6, 2, 6, 6)
    seen = {}
    for name in ("conv", "up", "head"):
        getattr(model, name).register_forward_hook(lambda m, i, o, n=name: seen.update({n: (i[0], o)}))
    factors = gradient_pass(model, x, [Kronecker()], log_prob=call).results[0]
    assert set(factors) == {"conv.weight", "up.weight", "head.weight"}

    value = model(x).sum()
    inputs = {name: pair[0] for name, pair in seen.items()}
    outputs = dict(zip(seen, torch.autograd.grad(value, [pair[1] for pair in seen.values()]), strict=True))
    conv = torch.nn.functional.unfold(inputs["conv"], 3, padding=1, stride=2).mT.flatten(0, 1)
    expected = {
        "head.weight": (inputs["head"], outputs["head"], 6),
        "conv.weight": (conv, outputs["conv"].movedim(1, -1).flatten(0, 2), 54),
        "up.weight": (
            inputs["up"].movedim(1, -1).flatten(0, 2),
            torch.nn.functional.unfold(outputs["up"], 2).mT.flatten(0, 1),
            54,
        ),
    }
    for name, (a, g, positions) in expected.items():
        found = factors[name]
        torch.testing.assert_close(found.inputs, a.T @ a, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.outputs, g.T @ g, rtol=1e-10, atol=1e-12)
        assert (found.positions, found.groups, found.inputs_first) == (positions, 6, name == "up.weight")


def test_micro_batches_change_nothing():
    model, x = image_model(), normal(12, 2, 6, 6)
    kinds = [SquaredNorms, GroupGradients, SquareSums, Kronecker]
    whole = gradient_pass(model, x, [k() for k in kinds], log_prob=call, group_size=2)
    cut = gradient_pass(model, x, [k() for k in kinds], log_prob=call, group_size=2, max_memory=1)
    torch.testing.assert_close(whole.log_p, cut.log_p, rtol=1e-12, atol=0)
    for a, b in zip(whole.results[:3], cut.results[:3], strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-10, atol=1e-12)
    some = gradient_pass(model, x, [Kronecker()], log_prob=call, max_memory=12_000).results[0]
    every = gradient_pass(model, x, [Kronecker()], log_prob=call).results[0]
    for name, factor in some.items():
        torch.testing.assert_close(factor.inputs, every[name].inputs)
        assert (factor.positions, factor.groups) == (every[name].positions, 12)


def test_micro_batches_follow_the_budget_and_keep_noise(monkeypatch):
    monkeypatch.setattr(Passes, "begin", lambda passes: None)  # no pass is checked
    sizes = []

    def log_prob(module, x, keys):
        sizes.append(len(x))
        noise = torch.tensor([int(key) % 1000 / 1000 for key in keys], dtype=x.dtype)
        return module(x + noise[:, None, None, None])

    model, x = image_model(), normal(12, 2, 6, 6)
    whole = gradient_norms(model, x, log_prob=log_prob)
    sizes.clear()
    cut = gradient_norms(model, x, log_prob=log_prob, max_memory=12_000)
    assert sum(sizes) == 12 and 1 < max(sizes) < 12 and len(set(sizes[:-1])) == 1
    assert_close_norms(cut, whole)


def test_gram_blocks_need_the_whole_batch():
    model, x = image_model(), normal(6, 2, 6, 6)
    with pytest.raises(SettingError, match="GramBlocks needs the whole batch"):
        gradient_pass(model, x, [GramBlocks()], log_prob=call, max_memory=1)
    grams = gradient_pass(model, x, [GramBlocks()], log_prob=call, method="loop").results[0]
    assert grams["head.weight"].shape == (6, 6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_models_of_lower_precision(dtype, tolerance):
    model, x = image_model().to(dtype), normal(6, 2, 6, 6).to(dtype)
    found, expected = (gradient_norms(model, x, log_prob=call, method=m) for m in ("batched", "loop"))
    for name, value in expected.items():
        assert found[name].dtype is value.dtype is torch.float32
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=1e-6)


def test_report_names_rules_costs_and_zeros():
    model, x = image_model(), normal(6, 2, 6, 6)
    report = rules_report(model, x, log_prob=call)
    rows = {row.parameter: row for row in report.rows}
    assert rows["conv.weight"].rules == ("convolution",) and rows["up.bias"].rules == ("transposed_convolution",)
    assert rows["scale"].rules == ("elementwise",) and rows["unused.weight"].rules == ("unused",)
    assert rows["unused.weight"].zero and not rows["conv.weight"].zero
    assert rows["conv.weight"].nbytes == x.numel() * 8
    text = str(report)
    assert all(name in text for name, _ in model.named_parameters()) and "[zero gradient]" in text


def test_report_marks_structural_zeros():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    model = Model(lambda m, x: m.a(m.q(x), m.k(x), x)[0], a=attention, q=nn.Linear(4, 4), k=nn.Linear(4, 4))
    rows = {row.parameter: row for row in rules_report(model, normal(6, 3, 4), log_prob=call).rows}
    assert rows["k.bias"].zero and not rows["q.bias"].zero and not rows["k.weight"].zero
