"""Every op of the issue's list, batched against the loop."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from gradient_reference import Model, assert_close_norms, assert_equals_loop, call, normal, parameter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fisherscope.core.errors import ModelError
from fisherscope.features.gradients import Projection, Sketch, gradient_norms, gradient_pass, rules_report
from fisherscope.features.gradients.rules.recurrent import CELLS


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    spatial=st.integers(1, 3),
    transposed=st.booleans(),
    groups=st.integers(1, 3),
    c_in=st.integers(1, 3),
    c_out=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    group_size=st.integers(1, 3),
)
def test_convolutions_of_any_geometry(
    spatial, transposed, groups, c_in, c_out, kernel, stride, padding, dilation, bias, group_size
):
    size = {1: 9, 2: 7, 3: 6}[spatial]
    extra = {}
    if transposed:
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[spatial - 1]
        padding = min(padding, dilation * (kernel - 1))
        extra["output_padding"] = max(stride, dilation) - 1
    else:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spatial - 1]
    layer = kind(
        groups * c_in, groups * c_out, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias, **extra
    )
    model = Model(lambda m, x: m.layer(x), layer=layer)
    x = normal(2 * group_size, groups * c_in, *[size] * spatial)
    assert_equals_loop(model, x, call, (group_size,))


@pytest.mark.parametrize("channels", [16, 32])
@pytest.mark.parametrize("stride", [1, 2])
def test_float32_convolutions_with_blocked_channels(channels, stride):
    model = Model(lambda m, x: m.layer(x), layer=nn.Conv2d(16, channels, 3, stride, 1)).float()
    x = normal(4, 16, 12, 12).float()
    found, expected = (gradient_norms(model, x, log_prob=call, method=m) for m in ("batched", "loop"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=0)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_convolution_padding_modes(padding_mode, padding):
    layer = nn.Conv2d(2, 3, (3, 5), padding=padding, padding_mode=padding_mode)
    assert_equals_loop(Model(lambda m, x: m.layer(x), layer=layer), normal(4, 2, 7, 8), call)


def test_convolution_with_same_padding_and_even_kernel_is_exact_by_the_generic_rule():
    layer = nn.Conv1d(2, 3, 4, padding="same")
    with _ignore("Using padding='same'"):
        assert_equals_loop(Model(lambda m, x: m.layer(x), layer=layer), normal(4, 2, 7), call, generic=("conv1d",))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (5,)),
        (nn.Linear(5, 3), (4, 2, 5)),
        (nn.Linear(40, 30, bias=False), (2, 40)),
        (nn.GroupNorm(2, 4), (4, 5)),
        (nn.GroupNorm(4, 4), (4, 3, 3)),
        (nn.LayerNorm((3, 4)), (2, 3, 4)),
        (nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
        (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (3, 4)),
        (nn.RMSNorm(4), (3, 4)),
        (nn.BatchNorm2d(3), (3, 4, 4)),
        (nn.BatchNorm1d(5), (5,)),
        (nn.PReLU(), (3, 4)),
        (nn.PReLU(3), (3, 4)),
    ],
    ids=lambda v: str(v),
)
def test_layers(layer, shape):
    for p in layer.parameters():
        nn.init.normal_(p)
    prelu = ("prelu",) if isinstance(layer, nn.PReLU) else ()
    assert_equals_loop(Model(lambda m, x: m.layer(x), layer=layer), normal(6, *shape), call, generic=prelu)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("x @ w", lambda m, x: x @ m.w),
        ("w @ x", lambda m, x: m.w @ x.mT),
        ("vector", lambda m, x: x @ m.v),
        ("einsum", lambda m, x: torch.einsum("nti,io->nto", x, m.w)),
        ("einsum bilinear", lambda m, x: torch.einsum("nti,io,nto->nt", x, m.w, x)),
        ("addition", lambda m, x: x + m.v - 2 * m.v + (1 - m.w)[:3]),
        ("product", lambda m, x: m.v * x * m.w[0] * m.scalar),
        ("quotient", lambda m, x: x / (1 + m.v.square()) + m.v / (1 + x.square())),
        ("power", lambda m, x: (1 + x.square()) ** m.v),
        ("where", lambda m, x: torch.where(x > 0, m.v, m.scalar * x)),
        ("alpha", lambda m, x: torch.add(x, m.v, alpha=0.3)),
        ("clamp", lambda m, x: torch.clamp(x, min=m.v - 1, max=m.v + 1)),
        ("lerp", lambda m, x: torch.lerp(x, m.v, 0.3)),
        ("logaddexp", lambda m, x: torch.logaddexp(m.v, x)),
        ("addcmul", lambda m, x: torch.addcmul(x, m.v, m.w[0])),
        ("log determinant", lambda m, x: x.sum((1, 2)) + torch.linalg.slogdet(m.w)[1] + m.scalar * 3),
        ("product of parameters", lambda m, x: x @ (torch.tril(m.w, -1) @ torch.triu(m.w))),
        ("transposed view", lambda m, x: x @ m.w.T + m.w.reshape(-1)[:5]),
        ("used twice", lambda m, x: torch.tanh(x @ m.w) @ m.w + m.v * x + m.v),
        ("slices of one parameter", lambda m, x: x @ m.w[:, :3] + x @ m.w[:, 2:]),
        ("batch on axis 1", lambda m, x: (x.transpose(0, 1) @ m.w + m.v).transpose(0, 1)),
        ("batch folded", lambda m, x: F.linear(x.reshape(-1, 5), m.w, m.v).view(len(x), -1)),
        ("batch folded, position major", lambda m, x: _position_major(m, x)),
        ("batch on the last axis", lambda m, x: (m.w @ x[:, 0].T).T),
        ("expanded along the batch", lambda m, x: torch.cat([m.v.expand(len(x), 1, 5), x], 1)),
        ("distance", lambda m, x: torch.cdist(x, m.w)),
        ("in-place arithmetic", lambda m, x: (x * 1).add_(m.v).mul_(m.w[0]).div_(2 + m.v.square())),
        ("augmented assignment", lambda m, x: _augmented(m, x)),
        ("item assignment", lambda m, x: _assigned(m, x)),
        ("parameters written into a buffer", lambda m, x: x @ _buffer(m)),
        ("no grad statistics", lambda m, x: (x - _mean(x)) * m.v),
        ("bilinear", lambda m, x: F.bilinear(x, x, m.b)),
        ("two outputs", lambda m, x: torch.aminmax(m.v * x, dim=1).max + (x * m.v).chunk(3, 1)[1].sum(1)),
        ("control flow", lambda m, x: x * m.v if float(m.v.detach().sum()) > 1e9 else x + m.v),
        ("loop over positions", lambda m, x: torch.stack([torch.tanh(x[:, t] @ m.w + m.v) for t in range(3)], 1)),
        ("functional softmax of weights", lambda m, x: x @ F.softmax(m.w, 1)),
    ],
)  # fmt: skip
def test_bare_parameters(name, run):
    model = Model(
        run, w=parameter(5, 5), v=parameter(5, seed=2), scalar=parameter(seed=3), b=parameter(2, 5, 5, seed=4)
    )
    assert_equals_loop(model, normal(6, 3, 5), call, generic=("*",))


def _augmented(m, x):
    y = x * 2
    y += m.v
    y *= m.w[0]
    y -= m.scalar
    return y


def _assigned(m, x):
    y = torch.zeros_like(x)
    y[:, 0] = m.v
    y[:, 1] = x[:, 1] * m.v
    y[:, 2] += x[:, 2] + m.w[1]
    return y


def _buffer(m):
    out = torch.zeros(5, 5, dtype=m.w.dtype)
    out[torch.arange(5), torch.arange(5)] = m.v
    out[0] = m.w[0]
    return out


def _position_major(m, x):
    return F.linear(x.transpose(0, 1).reshape(-1, 5), m.w).view(3, len(x), 5).transpose(0, 1)


@torch.no_grad()
def _mean(x):
    return x.mean((1, 2), keepdim=True)


@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_parametrizations(wrap):
    model = Model(lambda m, x: m.layer(x), layer=wrap(nn.Linear(4, 4)))
    assert_equals_loop(model, normal(6, 4), call)


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("frozen", ["", "weight", "bias"])
def test_group_norm_of_samples_folded_with_their_frames(time_first, frozen):
    def run(m, x):
        frames = x.transpose(0, 1).flatten(0, 1) if time_first else x.flatten(0, 1)
        y = torch.tanh(m.norm(m.first(frames)))
        return y.view(3, len(x), 4, 5).transpose(0, 1) if time_first else y.view(len(x), 3, 4, 5)

    model = Model(run, first=nn.Conv1d(4, 4, 1), norm=nn.GroupNorm(2, 4))
    if frozen:
        getattr(model.norm, frozen).requires_grad_(False)
    assert_equals_loop(model, 3 + normal(6, 3, 4, 5), call)


@pytest.mark.parametrize("how", ["checkpointed", "overwritten", "unreached", "tied"])
def test_group_norm_beside_what_could_disturb_its_stand_ins(how):
    """A checkpoint runs it twice, an op writes into its output, its output may not matter, two may share weights."""

    def run(m, x):
        h = m.first(x)
        if how == "checkpointed":
            h = checkpoint(lambda h: torch.tanh(m.norm(h)), h, use_reentrant=False)
        elif how == "overwritten":
            h = m.norm(h).mul_(2).relu_()
        elif how == "unreached":
            h = h + 0 * m.norm(h)
        else:
            h = m.norm(torch.tanh(m.norm(h)))
        return m.last(h)

    layers = {"first": nn.Conv2d(3, 4, 1), "norm": nn.GroupNorm(2, 4), "last": nn.Conv2d(4, 2, 3)}
    assert_equals_loop(Model(run, **layers), normal(6, 3, 4, 4), call)


def test_masked_weights():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    mask = (torch.arange(9).view(3, 3) < 4).double()
    model = Model(lambda m, x: F.conv2d(x, m.layer.weight * mask, m.layer.bias, padding=1), layer=layer)
    assert_equals_loop(model, normal(6, 3, 5, 5), call)


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (1, 3, 1, 1), (4, 1, 1, 1), (4, 3, 3, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("again", [False, True])
def test_a_weight_times_a_constant(shape, again):
    """The norm and the sketch, whichever axes the constant varies along, and when a checkpoint runs the op twice."""
    constant = normal(*shape, seed=5)
    layer = nn.Conv2d(3, 4, 3, padding=1)

    def convolve(m, x):
        return F.conv2d(x, constant * m.layer.weight, m.layer.bias, padding=1)

    def run(m, x):
        return checkpoint(convolve, m, m.first(x), use_reentrant=False) if again else convolve(m, m.first(x))

    model, x = Model(run, first=nn.Conv2d(3, 3, 1), layer=layer), normal(6, 3, 5, 5)
    assert_equals_loop(model, x, call)
    projections = {"layer.weight": Projection(normal(2, 4, seed=6), normal(3, 27, seed=7))}
    for sides in (projections, {"layer.weight": Projection(None, normal(3, 27, seed=7))}, None):
        found, expected = (
            gradient_pass(model, x, [Sketch(64, projections=sides)], log_prob=call, method=m).results[0]
            for m in ("batched", "loop")
        )
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_masked_weight_that_is_used_in_two_ways():
    mask = (torch.arange(4.0) < 2).double()[None]

    def twice(m, x):
        w = m.layer.weight * mask
        return F.linear(torch.tanh(F.linear(x, w)), w)

    def both(m, x):
        return F.linear(x, m.layer.weight * mask) + torch.tanh(m.layer(x))

    def further(m, x):
        w = m.layer.weight * mask
        return F.linear(x, w) * w.square().sum() + F.linear(x, w.exp())

    def derived(m, x):
        w = m.layer.weight * mask
        return F.linear(x, w.mul_(2.0))

    for run in (twice, both, further, derived):
        assert_equals_loop(Model(run, layer=nn.Linear(4, 4)), normal(6, 4), call)


def test_a_mask_written_to_after_its_use_is_never_silently_wrong():
    mask = torch.ones(1, 4, dtype=torch.float64)

    def run(m, x):
        mask.fill_(1.0)
        mask[:, 2:] = 0.0
        y = F.linear(x, m.layer.weight * mask)
        mask.fill_(3.0)
        return y

    with pytest.raises((ModelError, RuntimeError), match=r"in place|inplace"):
        gradient_norms(Model(run, layer=nn.Linear(4, 4)), normal(6, 4), log_prob=call)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_recurrent_layers(kind, batch_first, options):
    def run(m, x):
        y, _ = m.layer(x if batch_first else x.transpose(0, 1))
        return y if batch_first else y.transpose(0, 1)

    model = Model(run, layer=kind(3, 4, batch_first=batch_first, **options))
    assert_equals_loop(model, normal(4, 5, 3), call)


def test_lstm_with_projection_and_gru_cell():
    model = Model(lambda m, x: m.layer(x)[0], layer=nn.LSTM(3, 4, proj_size=2, batch_first=True))
    assert_equals_loop(model, normal(4, 5, 3), call)
    model = Model(lambda m, x: m.layer(x[:, 1], m.layer(x[:, 0])), layer=nn.GRUCell(3, 4))
    assert_equals_loop(model, normal(4, 2, 3), call, generic=("gru_cell",))


def test_recurrent_layers_keep_their_values():
    for layer in (nn.GRU(3, 4, 2, bidirectional=True), nn.LSTM(3, 4, proj_size=2), nn.RNN(3, 4, nonlinearity="relu")):
        layer = layer.double()
        name = {"GRU": "gru", "LSTM": "lstm", "RNN": "rnn_relu"}[type(layer).__name__]
        x = normal(5, 2, 3)
        directions = 2 if layer.bidirectional else 1
        h = normal(directions * layer.num_layers, 2, layer.proj_size or 4)
        state = (h, normal(directions * layer.num_layers, 2, 4)) if name == "lstm" else h
        rest = (layer.bias, layer.num_layers, 0.0, False, layer.bidirectional, layer.batch_first)
        expected = getattr(torch, name)(x, state, layer._flat_weights, *rest)
        for a, b in zip(CELLS[name](x, state, layer._flat_weights, *rest), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(batch_first, need_weights):
    def run(m, x):
        x = x if batch_first else x.transpose(0, 1)
        y, _ = m.layer(x, x, x, need_weights=need_weights, attn_mask=torch.ones(4, 4, dtype=torch.bool).triu(1))
        return y if batch_first else y.transpose(0, 1)

    layer = nn.MultiheadAttention(6, 2, batch_first=batch_first, add_bias_kv=False)
    assert_equals_loop(Model(run, layer=layer), normal(4, 4, 6), call)


def test_attention_with_learnt_queries_and_extra_keys():
    layer = nn.MultiheadAttention(6, 2, kdim=5, vdim=4, add_bias_kv=True, batch_first=True)
    run = lambda m, x: m.layer(m.query.expand(len(x), -1, -1), x, x[..., :4])[0]  # noqa: E731
    assert_equals_loop(Model(run, layer=layer, query=parameter(1, 3, 6)), normal(4, 4, 5), call, generic=("*",))


def test_embeddings_tied_padded_and_bags():
    def run(m, x):
        h = m.table(x) + m.position(torch.arange(x.shape[1])) + m.padded(x)
        logits = F.linear(torch.tanh(h), m.table.weight)
        return logits.log_softmax(-1).gather(2, x[..., None]).sum((1, 2)) + m.bag(x).sum(1)

    layers = {
        "table": nn.Embedding(7, 5),
        "position": nn.Embedding(4, 5),
        "padded": nn.Embedding(7, 5, padding_idx=2),
        "bag": nn.EmbeddingBag(7, 3, mode="mean"),
    }
    x = torch.randint(7, (6, 4), generator=torch.Generator().manual_seed(0))
    assert_equals_loop(Model(run, **layers), x, call, generic=("embedding_bag",))


def test_embedding_scaled_by_frequency_is_looped():
    model = Model(lambda m, x: m.table(x), table=nn.Embedding(4, 3, scale_grad_by_freq=True))
    x = torch.randint(4, (6, 5), generator=torch.Generator().manual_seed(0))
    assert_equals_loop(model, x, call, looped=("*",))


@pytest.mark.parametrize("index", ["fancy", "select", "gather"])
def test_lookups(index):
    def run(m, x):
        if index == "fancy":
            return m.w[x] + m.v[x][..., None]
        if index == "select":
            return m.w.index_select(0, x.flatten()).view(*x.shape, -1)
        return m.w.expand(len(x), -1, -1).gather(1, x[..., None].expand(-1, -1, 3))

    model = Model(run, w=parameter(7, 3), v=parameter(7, seed=2))
    x = torch.randint(-7 if index == "fancy" else 0, 7, (6, 4), generator=torch.Generator().manual_seed(0))
    assert_equals_loop(model, x, call, generic=("gather",) if index == "gather" else ())


def test_tied_and_reused_modules():
    layer = nn.Linear(4, 4)
    model = Model(
        lambda m, x: m.c(torch.tanh(m.a(torch.tanh(m.b(m.a(x)))))), a=layer, b=nn.Sequential(layer), c=nn.Linear(4, 4)
    )
    model.c.weight = layer.weight
    assert [n for n, _ in model.named_parameters()] == ["a.weight", "a.bias", "c.bias"]
    assert_equals_loop(model, normal(6, 4), call)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_modules(reentrant):
    def run(m, x):
        h = m.first(x).requires_grad_() if reentrant else m.first(x)
        return m.last(checkpoint(m.middle, h, use_reentrant=reentrant))

    layers = {n: nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for n in ("first", "middle", "last")}
    assert_equals_loop(Model(run, **layers), normal(6, 4), call, looped=("*",) if reentrant else ())


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return 2 * x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return 2 * g * w, (2 * g * x).sum(0)


def test_custom_autograd_function_is_looped_and_the_rest_is_not():
    model = Model(lambda m, x: m.b(_Double.apply(m.a(x), m.w)), a=nn.Linear(4, 4), b=nn.Linear(4, 4), w=parameter(4))
    assert_equals_loop(model, normal(6, 4), call, looped=("w",))


def test_scripted_module_is_looped_and_the_rest_is_not():
    model = Model(lambda m, x: m.b(m.a(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    with _ignore(".*torch.jit.*"):
        model.a = torch.jit.trace(model.a, normal(1, 4))
        assert_equals_loop(model, normal(6, 4), call, looped=("a.weight", "a.bias"))


def test_autograd_inside_log_prob_is_looped():
    def run(m, x):
        x = x.detach().requires_grad_()
        y = torch.tanh(m.a(x)).sum()
        return torch.autograd.grad(y, x, create_graph=True)[0]

    assert_equals_loop(Model(run, a=nn.Linear(4, 4)), normal(6, 4), call, looped=("*",))


def test_functorch_inside_log_prob_is_looped():
    run = lambda m, x: torch.func.vmap(torch.func.grad(lambda v: torch.tanh(m.a(v)).sum()))(x)  # noqa: E731
    assert_equals_loop(Model(run, a=nn.Linear(4, 4)), normal(6, 4), call, looped=("*",))


def test_ops_that_change_with_the_batch_are_looped():
    run = lambda m, x: torch.stack([m.a(row) for row in x])  # noqa: E731
    assert_equals_loop(Model(run, a=nn.Linear(4, 4)), normal(6, 4), call, looped=("*",))


def test_rows_gathered_by_their_values_are_exact():
    def run(m, x):
        y = torch.zeros_like(x)
        y[x[:, 0] > 0] = m.a(x[x[:, 0] > 0])
        y[x[:, 0] <= 0] = m.b(x[x[:, 0] <= 0])
        return y

    x = normal(8, 4)
    model = Model(run, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    for g in (1, 2):
        found, expected = (gradient_norms(model, x, log_prob=call, group_size=g, method=m) for m in ("batched", "loop"))
        assert_close_norms(found, expected)


@pytest.mark.parametrize(
    ("run", "generic"),
    [
        (lambda m, x: torch.distributions.Normal(x @ m.w, m.v.exp()).log_prob(x).sum(1), ("broadcast_tensors",)),
        (lambda m, x: torch.linalg.solve(m.w, x.T).T, ("linalg_solve",)),
        (lambda m, x: m.w[torch.cdist(x, m.w).argmin(1)] * x, ("cdist",)),
        (lambda m, x: F.scaled_dot_product_attention(m.w.expand(len(x), 5, 5), _outer(x), _outer(x)), ("*",)),
        (lambda m, x: (m.w[None, 0] * torch.ones(len(x), 5, dtype=x.dtype)).sum(1), ()),
        (lambda m, x: torch.bmm(x[:, None], m.w.expand(len(x), -1, -1)), ("bmm",)),
        (lambda m, x: torch.tensordot(x, m.w, 1), ("tensordot",)),
    ],
)
def test_rarer_ops(run, generic):
    assert_equals_loop(Model(run, w=parameter(5, 5), v=parameter(5, seed=2)), normal(6, 5), call, generic=generic)


def _outer(x):
    return x[:, :, None] * x[:, None]


def test_parameters_written_into_a_view_of_the_data_are_looped():
    def run(m, x):
        y = x.clone()
        y[:, 0].add_(m.v[0])
        return y

    assert_equals_loop(Model(run, v=parameter(5)), normal(6, 5), call, looped=("*",))


def test_a_constant_as_long_as_the_batch_misleads_nobody():
    model = Model(lambda m, x: x * m.v + (m.w + x.new_ones(6, 5)).sum(), v=parameter(5), w=parameter(6, 5))
    for n in (4, 6):
        found, expected = (gradient_norms(model, normal(n, 5), log_prob=call, method=m) for m in ("batched", "loop"))
        assert_close_norms(found, expected)
    assert "does not follow the probe" in str(rules_report(model, normal(6, 5), log_prob=call))


@contextmanager
def _ignore(message):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        yield
