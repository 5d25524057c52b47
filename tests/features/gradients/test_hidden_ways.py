"""What the probe of a few samples cannot see: rows moved by values, hooks, ways that only other batches take."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradient_reference import Model, assert_close_norms, assert_equals_loop, call, energy, normal, parameter
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from fisherscope.core.errors import DataError, ModelError
from fisherscope.features.gradients import gradient_norms, gradient_pass, gradient_sketch, rules_report
from fisherscope.features.gradients.reductions import GramBlocks, SquaredNorms, SquareSums

LENGTHS = torch.tensor([4, 4, 4, 3, 5, 4])  # the first three, which a probe sees, are equal


def linear(inputs: int = 4, outputs: int = 3) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs)


def empty(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without inputs or outputs, of which torch warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Linear(inputs, outputs)


def agree(module: nn.Module, x: Any, group_size: int = 1) -> None:
    """Compare one call of the batched pass with the loop."""
    found = gradient_norms(module, x, log_prob=call, group_size=group_size)
    assert_close_norms(found, gradient_norms(module, x, log_prob=call, group_size=group_size, method="loop"))


def agree_when_probed_anew(module: nn.Module, x: Any) -> None:
    """The same, after one error that says so where an earlier probe has been wrong."""
    try:
        agree(module, x)
    except ModelError as error:
        if "call again, the model has been probed anew" not in str(error):
            raise
        agree(module, x)


def by_slices(m: Model, x: Any) -> Tensor:
    t, lengths = x[0], x[1].tolist()
    h = torch.tanh(m.a(torch.cat([t[i, :k] for i, k in enumerate(lengths)]))).square().sum(1)
    return torch.stack([c.sum() for c in h.split(lengths)])


def sorted_in_python(m: Model, x: Any) -> Tensor:
    t, lengths = x[0], [int(k) for k in x[1]]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return torch.tanh(m.a(t[order]))[[order.index(i) for i in range(len(lengths))]].square().sum((1, 2))


def sorted_by_numpy(m: Model, x: Any) -> Tensor:
    order = np.argsort(-x[1].numpy(), kind="stable")
    return torch.tanh(m.a(x[0][order]))[np.argsort(order)].square().sum((1, 2))


def packed(m: Model, x: Any) -> Tensor:
    p = pack_padded_sequence(x[0], x[1].tolist(), batch_first=True, enforce_sorted=False)
    p = p._replace(data=m.a(p.data).tanh())
    return pad_packed_sequence(p, batch_first=True, total_length=x[0].shape[1])[0].square().sum((1, 2))


def masked_in_python(m: Model, x: Any) -> Tensor:
    t, lengths = x[0], x[1].tolist()
    keep = torch.arange(t.shape[1])[None] < torch.tensor(lengths)[:, None]
    return torch.stack([c.sum() for c in m.a(t[keep]).tanh().square().sum(1).split(lengths)])


@pytest.mark.parametrize("run", [by_slices, sorted_in_python, sorted_by_numpy, packed, masked_in_python])
def test_rows_that_python_moves(run):
    assert_equals_loop(Model(run, a=linear()), (normal(6, 6, 4), LENGTHS), call, looped=["*"])


def compacted(m: Model, x: Tensor) -> Tensor:
    need = (x[:, 3] > 0).double()
    place = F.one_hot((need.cumsum(0) - 1).long().clamp_min(0), len(x)).double() * need[:, None]
    return (place @ torch.tanh(m.a(place.mT @ x))).square().sum(1) + x.sum(1)


def by_permutation_matrix(m: Model, x: Tensor) -> Tensor:
    order = F.one_hot(torch.argsort((x[:, 3] > 0).to(torch.int8), dim=0, stable=True), len(x)).double()
    return (order.T @ torch.tanh(m.a(order @ x))).square().sum(1)


def mixture_of_experts(m: Model, x: Tensor) -> Tensor:
    chosen = F.one_hot((x[:, 3] > 0).long(), 2).double()
    place = chosen[:, :, None] * F.one_hot(((chosen.cumsum(0) - 1) * chosen).long(), len(x)).double()
    h = torch.einsum("ecd,edh->ech", torch.einsum("nec,nd->ecd", place, x), m.w).tanh()
    return torch.einsum("nec,ech->nh", place, h).square().sum(1)


@pytest.mark.parametrize("run", [compacted, by_permutation_matrix, mixture_of_experts])
def test_rows_that_products_move(run):
    x = normal(6, 4)
    x[:3, 3], x[3, 3], x[4:, 3] = 1.0, -1.0, 1.0
    assert_equals_loop(Model(run, a=linear(), w=parameter(2, 4, 3)), x, call, looped=["*"])


def test_products_within_samples_are_served():
    def attention(m: Model, x: Tensor) -> Tensor:
        h = m.a(x)
        return (torch.softmax(h @ h.mT, -1) @ h) + torch.einsum("btc,bsc->bts", h, h) @ h

    assert_equals_loop(Model(attention, a=linear()), normal(6, 5, 4), call)


class Turned(nn.Module):
    """Time first or batch first, which gives the same numbers where both are as long."""

    def __init__(self, first: Any = None) -> None:
        super().__init__()
        self.a, self.first = linear().double(), first

    def forward(self, x: Tensor) -> Tensor:
        order = (1, 0, 2) if self.first(x) else (0, 1, 2)
        return torch.tanh(self.a(x.permute(*order))).permute(*order).square().sum((1, 2))


def test_another_layout_for_another_batch():
    x = normal(6, 6, 4).clamp(-2, 2)
    other = x.clone()
    other[0, 0, 0] = 3
    model = Turned(lambda x: bool((x > 2.5).any())).eval()
    agree(model, x)
    agree(model, other)
    agree(Turned(lambda x: len(x) > 4).eval(), x)
    model = Turned(lambda x: False).eval()
    agree(model, x)
    model.first = lambda x: True
    agree(model, x)


@pytest.mark.parametrize("op", [Tensor.mul_, Tensor.add_, Tensor.copy_])
def test_a_parameter_written_into_a_view(op):
    def run(m: Model, x: Tensor) -> Tensor:
        h = m.a(x)
        op(h[:, 1:], m.s)
        return energy(h * (x[:, 3] > 0).double()[:, None])

    x = normal(6, 4)
    x[:3, 3], x[3:, 3] = -1.0, 1.0
    for group_size in (1, 2):
        agree(Model(run, a=linear(), s=parameter(2)), x, group_size)


class ZeroHead(nn.Module):
    """No gradient reaches the first layer until the head is trained."""

    def __init__(self, body: Any, width: int = 3, **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body, self.head = body, nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self, x).tanh().flatten(1))[:, 0].tanh()


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: torch.einsum("bi,oi->bo", x[:, :1], m.w),  # a letter of size 1 is repeated
        lambda m, x: m.a(x.flip(0)).flip(0),
        lambda m, x: m.a(x),
    ],
)
def test_a_head_that_is_trained_after_the_first_call(body):
    model = ZeroHead(body, a=linear(), w=parameter(3, 4))
    x = normal(6, 4)
    gradient_norms(model, x, log_prob=call)
    nn.init.normal_(model.head.weight)
    agree_when_probed_anew(model, x)


def test_what_a_later_probe_finds_is_not_passed_over():
    class Flips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c, self.gate = linear().double(), linear(4, 1).double(), 0.0

        def forward(self, x: Tensor) -> Tensor:
            y = x.relu() if bool((x[:, 0] > 0).any()) else x.clamp(min=0.0)  # the same numbers
            return self.c(y)[:, 0] + self.gate * torch.tanh(self.a(x.flip(0))).flip(0).sum(1)

    model, x = Flips().eval(), normal(6, 4)
    x[:, 0] = x[:, 0].abs()
    gradient_norms(model, x, log_prob=call)
    model.gate = 1.0
    x[:, 0] = torch.tensor([-1.0, -1, 1, -1, -1, 1])
    agree_when_probed_anew(model, x)


def test_hooks_on_parameters_are_heeded():
    x = normal(6, 4)
    x[:3] *= 0.05
    x[3:] *= 5
    model = Model(lambda m, x: m.a(x), a=linear())
    model.a.weight.register_hook(lambda g: g.clamp(-1.5, 1.5))  # does nothing in the probe
    assert_equals_loop(model, x, call, looped=["a.weight", "a.bias"])
    model = Model(lambda m, x: m.a(x), a=linear())
    gradient_norms(model, x, log_prob=call)
    model.a.weight.register_hook(lambda g: g * torch.tensor([1.0, 0, 0], dtype=torch.float64)[:, None])
    agree(model, x)


@pytest.mark.parametrize("derived", [lambda w: w * 2, torch.exp])
def test_hooks_on_derived_tensors_are_heeded(derived):
    def run(m: Model, x: Tensor) -> Tensor:
        w = derived(m.w)
        w.register_hook(lambda g: g.clamp(-1.5, 1.5))
        return x @ w

    x = normal(6, 4)
    x[3:] *= 5
    assert_equals_loop(Model(run, w=parameter(4, 3)), x, call, looped=["*"])


@pytest.mark.parametrize("samples", [4, 6])
def test_an_op_that_reads_no_values_of_a_parameter_gives_it_none(samples):
    model = Model(lambda m, x: torch.tanh(m.a(x)).to(m.a.weight), a=linear(4, 4))
    assert_equals_loop(model, normal(samples, 4), call, generic=["to"])


class Drifting(nn.Module):
    """Statistics over the batch, or noise, that is switched on later."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mixing, self.noise = linear().double(), 0.0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x + self.noise * torch.randn_like(x)))
        return (h - self.mixing * h.mean(0)).square().sum(1)


def test_an_interaction_that_begins_later_is_refused():
    model, x = Drifting().eval(), normal(8, 4)
    gradient_norms(model, x, log_prob=call)
    model.mixing = 0.5
    with pytest.raises(ModelError, match="samples interact"):
        gradient_norms(model, x, log_prob=call)


def test_after_an_interaction_every_pass_is_checked():
    model, x = Drifting().eval(), normal(8, 4)
    for _ in range(4):
        gradient_norms(model, x, log_prob=call)
    model.mixing = 0.5
    refused = 0
    for _ in range(8):
        try:
            gradient_norms(model, x, log_prob=call)
        except ModelError:
            refused += 1
    assert refused == 5  # from the eighth pass on


@pytest.mark.parametrize("samples", [1, 8])
def test_noise_is_refused(samples):
    model, x = Drifting().eval(), normal(8, 4)
    if samples > 1:
        gradient_norms(model, x, log_prob=call)
    model.noise = 0.5
    with pytest.raises(ModelError, match="log_prob is random"):
        gradient_norms(model, x[:samples], log_prob=call)


def test_statistics_of_four_samples_are_refused_at_once():
    def run(m: Model, x: Tensor) -> Tensor:
        h = torch.tanh(m.a(x))
        each = 4 if len(h) % 4 == 0 else 1
        spread = (h.view(each, -1, 3).var(0, unbiased=False) + 1e-8).sqrt().mean(1).repeat(each)
        return torch.cat([h, spread[:, None]], 1)

    with pytest.raises(ModelError, match="samples interact"):
        gradient_norms(Model(run, a=linear()), normal(8, 4), log_prob=call)


def test_log_p_that_grows_with_the_batch_is_refused():
    model = Model(lambda m, x: m.a(x).square().sum(1) * (1 + 0.01 * len(x)), a=linear())
    with pytest.raises(ModelError, match="samples interact"):
        gradient_norms(model, normal(60, 4), log_prob=call)


def test_terms_that_cancel():
    """Two nearly equal frames: a Gram form alone would have the round-off of the frames' own squares."""

    def frames(distance: float, n: int) -> Tensor:
        first = normal(n, 1, 40)
        return torch.cat([first, first + distance * normal(n, 1, 40, seed=3)], 1)

    def run(m: Model, x: Tensor) -> Tensor:
        h = torch.tanh(m.a(x))
        return (h[:, 1] - h[:, 0]).sum(1)

    model = Model(run, a=linear(40, 30))
    x = torch.cat([frames(1.0, 4), frames(1e-4, 1), frames(1e-6, 1)])
    found = gradient_norms(model, x, log_prob=call)["a.weight"]
    expected = gradient_norms(model, x, log_prob=call, method="loop")["a.weight"]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)  # what the forward passes themselves differ by
    single = Model(run, a=linear(40, 30)).float()
    single.load_state_dict(model.state_dict())
    found = gradient_norms(single, x[:5].float(), log_prob=call)["a.weight"]
    torch.testing.assert_close(found.double(), expected[:5], rtol=1e-2, atol=0)


def test_rows_of_a_table_that_cancel():
    def run(m: Model, x: Tensor) -> Tensor:
        e = m.table(x)
        return ((e[:, 0] - e[:, 1]) * 1e2).sum(1) + 1e-2 * e[:, 2].square().sum(1)

    x = torch.tensor([[1, 1, 2], [2, 2, 2], [1, 2, 3], [3, 3, 3]])
    assert_equals_loop(Model(run, table=nn.Embedding(5, 3)), x, call)


def complexes(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.complex(normal(*shape), 0.3 * normal(*shape, seed=2)))


def real(y: Tensor) -> Tensor:
    return energy(torch.cat([y.real.flatten(1), 0.3 * y.imag.flatten(1)], 1))


@pytest.mark.parametrize(
    ("run", "w", "shape"),
    [
        (lambda m, x: real(torch.complex(x, x.flip(-1)) @ m.w), complexes(4, 3), (6, 5, 4)),
        (lambda m, x: real(F.conv2d(torch.complex(x, x.flip(-1)), m.w)), complexes(3, 4, 3, 3), (6, 4, 5, 5)),
        (lambda m, x: real(torch.einsum("bix,iox->box", torch.fft.rfft(x), m.w)), complexes(3, 2, 4), (6, 3, 6)),
    ],
)
def test_complex_parameters(run, w, shape):
    model, x = Model(run), normal(*shape)
    model.w = w
    found = gradient_norms(model, x, log_prob=call)
    assert_close_norms(found, gradient_norms(model, x, log_prob=call, method="loop"))
    assert found["w"].dtype is torch.float64
    for reduction in (SquareSums, GramBlocks):
        fast, slow = (
            gradient_pass(model, x, [reduction()], log_prob=call, method=m).results[0]["w"] for m in ("batched", "loop")
        )
        torch.testing.assert_close(fast, slow)
        assert not fast.is_complex()
    gram = gradient_pass(model, x, [GramBlocks()], log_prob=call).results[0]["w"]
    torch.testing.assert_close(gram.diagonal(), found["w"])
    sketch = gradient_sketch(model, x, log_prob=call)
    torch.testing.assert_close(sketch, gradient_sketch(model, x.flip(0), log_prob=call).flip(0))


def test_rows_made_of_parameters_are_cut_with_the_samples():
    def run(m: Model, x: Any) -> Tensor:
        labels, y = x
        return m.table.log_softmax(1)[labels.tolist()].gather(1, y[:, None])[:, 0]

    x = (torch.tensor([0, 0, 0, 1, 2, 1, 2, 1]), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))
    for group_size in (1, 2, 4):
        agree(Model(run, table=parameter(3, 4)), x, group_size)


def test_samples_that_hang_on_the_models_graph():
    model = Model(lambda m, x: m.b(torch.tanh(m.a(x))), a=linear(4, 4), b=linear(4, 2))
    x = model.a(normal(6, 4))
    for n in (6, 1):
        found = gradient_norms(model, x[:n], log_prob=call)
        assert_close_norms(found, gradient_norms(model, x[:n].detach(), log_prob=call))
        assert_close_norms(found, gradient_norms(model, x[:n], log_prob=call, method="loop"))


@pytest.mark.parametrize(
    ("run", "layers"),
    [
        (lambda m, x: x.masked_fill(x > 0, m.s), {"s": parameter()}),
        (lambda m, x: torch.cat([m.a(x), m.b(x)], 1), {"b": empty(4, 0)}),
        (lambda m, x: m.a(x) + m.b(x[:, :0]), {"b": empty(0, 3)}),
        (lambda m, x: x.index_put((torch.arange(len(x)), x.argmax(1)), m.s), {"s": parameter()}),
        (lambda m, x: x.view_as(m.s.expand(len(x), 4)) * m.s, {"s": parameter(4)}),
        (lambda m, x: torch.linalg.lstsq(m.s + 3 * torch.eye(4), x.T).solution.T, {"s": parameter(4, 4)}),
        (lambda m, x: m.a(x + m.s) if torch.is_same_size(m.s.expand(len(x), 4), x) else m.a(x), {"s": parameter(4)}),
        (lambda m, x: m.a(x.to(torch.result_type(x, m.a.weight))), {}),
    ],
)
def test_ops_without_a_rule_for_what_they_are_given(run, layers):
    agree(Model(run, a=linear(), **layers), normal(6, 4))


def test_a_checkpoint_that_holds_a_part_of_the_parameter_graph():
    def run(m: Model, x: Tensor) -> Tensor:
        return checkpoint(lambda z: (z @ m.w.softmax(0)) @ m.w.softmax(1).T, x * m.s, use_reentrant=False)

    agree(Model(run, w=parameter(4, 3), s=parameter(4)), normal(6, 3, 4))


def test_weights_that_the_model_keeps():
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.made = parameter(4, 4), None

        def forward(self, x: Tensor) -> Tensor:
            if self.made is None:
                self.made = torch.matrix_exp(0.1 * self.w)
            return energy(x @ self.made)

    model, x = Kept(), normal(6, 4)
    model(x)
    agree(model, x)
    model(x).sum().backward()  # the user's own graph is still whole
    assert model.w.grad is not None


def test_a_table_with_a_largest_norm():
    model = Model(lambda m, x: m.table(x), table=nn.Embedding(7, 4, max_norm=1.0))
    x = torch.arange(12).view(6, 2) % 7
    before = model.table.weight.detach().clone()
    with pytest.raises(ModelError, match=r"changes parameter 'table\.weight'"):
        gradient_norms(model, x, log_prob=call)
    model.table.weight.data.copy_(before)
    model(torch.arange(7))
    agree(model, x)


@pytest.mark.parametrize(("samples", "method"), [(1, "batched"), (6, "batched"), (6, "loop")])
def test_buffers_that_every_pass_changes_are_put_back(samples, method):
    model = Model(lambda m, x: m.a(x), a=nn.utils.parametrizations.spectral_norm(linear(4, 4))).train()
    before = {name: b.clone() for name, b in model.named_buffers()}
    with pytest.raises(ModelError, match="changes buffer"):
        gradient_norms(model, normal(samples, 4), log_prob=call, method=method)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())


def test_a_branch_that_no_sample_needed_before():
    def run(m: Model, x: Tensor) -> Tensor:
        out, extra, needs = m.a(x).square().sum(1), m.b(x), (x[:, 0] > 2).double()
        return out + extra.square().sum(1) * needs if bool(needs.any()) else out + out * 0

    model, x = Model(run, a=linear(), b=linear()), normal(6, 4).clamp(-1.5, 1.5)
    agree(model, x)
    x[4, 0] = 3.0
    for _ in range(3):
        agree(model, x)


def test_sparse_samples_are_refused():
    with pytest.raises(DataError, match=r"layout torch.sparse_coo; .* x.to_dense\(\)"):
        gradient_norms(Model(lambda m, x: m.a(x), a=linear()), normal(6, 4).to_sparse(), log_prob=call)


def test_log_p_is_the_loops_where_the_loop_serves():
    model = Model(by_slices, a=linear())
    x = (normal(6, 6, 4), LENGTHS)
    fast, slow = (
        gradient_pass(model, x, [SquaredNorms()], log_prob=call, method=method).log_p for method in ("batched", "loop")
    )
    assert torch.equal(fast, slow)
    assert rules_report(model, x, log_prob=call).loop_all


def stable(k: Tensor) -> tuple[Tensor, Tensor]:
    """The order of keys 0 and 1, and its inverse, without an op that is known to sort."""
    order = torch.cat([(k == v).nonzero()[:, 0] for v in (0, 1)])
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    return order, inverse


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, and still found in models

    @torch.jit.script
    def scripted(k: Tensor) -> Tensor:
        return k.argsort(stable=True)


def by_comparisons(m: Model, x: Any) -> Tensor:
    t, k = x
    order = sorted(range(len(k)), key=lambda i: k[i])
    return energy(m.a(t[order]))[[order.index(i) for i in range(len(order))]]


def by_iteration(m: Model, x: Any) -> Tensor:
    order = [i for i, k in enumerate(x[1]) if k <= 0] + [i for i, k in enumerate(x[1]) if k > 0]
    return energy(m.a(x[0][order]))[[order.index(i) for i in range(len(order))]]


def on_the_second_axis(m: Model, x: Any) -> Tensor:
    order, inverse = stable(x[1])
    return m.a(torch.stack([x[0], -2 * x[0]])[:, order]).tanh().square().sum(-1)[:, inverse].sum(0)


def put_by_index(m: Model, x: Any) -> Tensor:
    order, inverse = stable(x[1])
    h = torch.zeros(x[0].shape, dtype=x[0].dtype).index_put((inverse,), x[0])
    return torch.zeros(len(order), dtype=h.dtype).index_put((order,), energy(m.a(h)))


def matrix(x: Any) -> Tensor:
    return F.one_hot(stable(x[1])[0], len(x[0])).to(x[0])


def by_tensordot(m: Model, x: Any) -> Tensor:
    p = matrix(x)
    return torch.tensordot(p.T, energy(m.a(torch.tensordot(p, x[0], 1))), 1)


def by_linear(m: Model, x: Any) -> Tensor:
    p = matrix(x)
    return p.T @ energy(m.a(F.linear(p, x[0].T)))


def by_batched_products(m: Model, x: Any) -> Tensor:
    p = matrix(x)
    return torch.bmm(p.T[None], energy(m.a(torch.bmm(p[None], x[0][None])[0]))[None, :, None])[0, :, 0]


def by_scaled_rows(m: Model, x: Any) -> Tensor:
    p = matrix(x)
    return (p.T[:, :, None] * energy(m.a((p[:, :, None] * x[0][None]).sum(1)))[None, :, None]).sum(1)[:, 0]


def by_a_script(m: Model, x: Any) -> Tensor:
    order = scripted(x[1])
    return energy(m.a(x[0][order]))[scripted(order)]


def by_vmap(m: Model, x: Any) -> Tensor:
    order = torch.vmap(lambda k: k * 2)(x[1]).argsort(stable=True)
    return energy(m.a(x[0][order]))[order.argsort()]


MOVERS = [
    by_comparisons, by_iteration, on_the_second_axis, put_by_index, by_tensordot, by_linear, by_batched_products,
    by_scaled_rows, by_a_script, by_vmap,
]  # fmt: skip


@pytest.mark.parametrize("run", MOVERS)
def test_rows_that_are_moved_in_a_later_batch_alone(run):
    model = Model(run, a=linear())
    for moved in (False, False, True):
        agree(model, (normal(5, 4), torch.tensor([1.0, 0, 0, 1, 0]) * moved))


def striped(m: Model, x: Tensor) -> Tensor:
    y = energy(m.a(torch.cat([x[i::4] for i in range(4)])))
    out, start = torch.zeros(len(x), dtype=x.dtype), 0
    for i in range(4):
        count = len(range(i, len(x), 4))
        out[i::4] = y[start : start + count]
        start += count
    return out


def shuffled(m: Model, x: Tensor) -> Tensor:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(62))  # of 3 and of 2: in order
    return energy(m.a(x[order]))[order.argsort()]


def rolled(m: Model, x: Tensor) -> Tensor:
    return energy(m.a(x.roll(6, 0))).roll(-6, 0)


@pytest.mark.parametrize("run", [striped, shuffled, rolled])
def test_rows_that_move_by_how_many_they_are(run):
    model = Model(run, a=linear())
    for n in (4, 6, 5):
        agree(model, normal(n, 4))


def test_an_axis_that_is_turned_back():
    def run(m: Model, x: Tensor) -> Tensor:
        n, t, d = x.shape
        x = x.transpose(0, 1)
        if m.batch_first:
            x = x.transpose(0, 1)
        y = m.a(x.reshape(n * t, d)).tanh()
        return (y.reshape(n, t, -1) if m.batch_first else y.reshape(t, n, -1).transpose(0, 1)).square().sum((1, 2))

    model, x = Model(run, a=linear()), normal(5, 4, 4)
    model.batch_first = False
    agree(model, x)
    agree(model, x)
    model.batch_first = True
    agree(model, x)


def clip(g: Tensor) -> Tensor:
    return g * (1 / g.norm()).clamp(max=1)


@pytest.mark.parametrize(
    "register",
    [
        lambda m: m.b.register_full_backward_pre_hook(lambda layer, outputs: tuple(map(clip, outputs))),
        lambda m: m.b.register_full_backward_hook(lambda layer, inputs, outputs: tuple(map(clip, inputs))),
        lambda m: setattr(m, "heard", True),
    ],
)
def test_hooks_on_the_way_back_are_heeded(register):
    def run(m: Model, x: Tensor) -> Tensor:
        h = m.a(x)
        if m.heard:
            h.register_hook(clip)
        return m.b(h).tanh().square().sum(1) * x[:, 3]

    model = Model(run, a=linear(), b=linear(3, 2))
    model.heard = False
    register(model)
    for size in (0.01, 0.01, 50.0):
        agree(model, normal(5, 4) * torch.tensor([1, 1, 1, size], dtype=torch.float64))


def heads(m: Model, x: Tensor) -> Tensor:
    n, t, d = x.shape
    q, k, v = m.a(x).reshape(n, t, 3, 1, d).permute(2, 0, 3, 1, 4)
    return torch.cat([x, F.scaled_dot_product_attention(q, k, v)[:, 0]], 1).flatten(1)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize(
    ("run", "shape"),
    [
        (lambda m, x: m.a(x[:, [3, 1, 0, 2]]), (4,)),
        (lambda m, x: m.a(x)[torch.arange(len(x)), (x[:, 0] > 0).long()][:, None], (4,)),
        (lambda m, x: m.a(x).log_softmax(1).gather(1, (x[:, :1] > 0).long()), (4,)),
        (lambda m, x: m.a((torch.eye(4, dtype=x.dtype) @ x.T).T), (4,)),
        (lambda m, x: sum(m.a(torch.cat([x, -x])).chunk(2)), (4,)),
        (lambda m, x: m.a(x) * (x[0].numel() + bool((x > 9).any())), (4,)),
    ],
)
def test_rows_that_stay_in_their_places_are_served(run, shape, n):
    model = Model(lambda m, x: energy(run(m, x)), a=linear(4, 12))
    assert_equals_loop(model, normal(n, *shape), call, group_sizes=(1,))


def test_queries_keys_and_values_are_no_three_samples():
    model = Model(lambda m, x: energy(heads(m, x)), a=linear(4, 12))
    assert_equals_loop(model, normal(6, 5, 4), call)
    agree(model, normal(3, 5, 4))


def test_a_norm_whose_factors_are_far_apart():
    model = Model(lambda m, x: torch.sigmoid(m.a(x))[:, 0], a=nn.Linear(1, 1)).float()
    nn.init.constant_(model.a.weight, -3e-8)
    nn.init.zeros_(model.a.bias)
    x = torch.tensor([[1.8e9], [1.9e9]])
    found = gradient_norms(model, x, log_prob=call)["a.weight"]
    assert bool((found > 0).all())
    torch.testing.assert_close(
        found, gradient_norms(model, x, log_prob=call, method="loop")["a.weight"], atol=0, rtol=1e-4
    )


def test_the_report_of_a_model_that_has_changed_is_of_a_new_probe():
    model, x = Model(lambda m, x: m.a(x * 2 if m.doubles else x), a=linear()), normal(6, 4)
    model.doubles = False
    gradient_norms(model, x, log_prob=call)
    model.doubles = True
    assert_equals_loop(model, x, call)
    model.doubles = False
    assert rules_report(model, x, log_prob=call).loop_all is None
