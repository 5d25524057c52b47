"""Models for which a per-sample gradient has no meaning are refused, by name; users' objects stay as they were."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradient_reference import Model, assert_close_norms, assert_equals_loop, call, normal, parameter
from torch import nn
from torch.nn.utils import parametrizations

from fisherscope.core.errors import DataError, ModelError, SettingError
from fisherscope.features.gradients import gradient_norms, gradient_sketch, rules_report
from fisherscope.models.base import load_model


def linear_model(run=None) -> Model:
    torch.manual_seed(0)
    return Model(run or (lambda m, x: m.a(x)), a=nn.Linear(4, 3))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3, track_running_stats=False)])
@pytest.mark.parametrize("method", ["batched", "loop"])
def test_layers_that_mix_or_drop_are_named(layer, method):
    model = Model(lambda m, x: m.mixing(m.a(x)), a=nn.Linear(4, 3), mixing=layer)
    if not isinstance(layer, nn.BatchNorm1d) or layer.track_running_stats:
        model.train()
    with pytest.raises(ModelError, match=r"'mixing'.*eval\(\)"):
        gradient_norms(model, normal(4, 4), log_prob=call, method=method)


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.a(x) - m.a(x).mean(0),
        lambda m, x: m.a(x - x.mean(0)),
        lambda m, x: m.a(x) / (2 + m.a(x).detach().mean(0)),
        lambda m, x: m.a(x).sort(0).values,
        lambda m, x: F.batch_norm(m.a(x), None, None, training=True) if len(x) > 1 else m.a(x),
        lambda m, x: m.a(x).flip(0),
    ],
)
def test_samples_that_interact_are_refused(run):
    with pytest.raises(ModelError, match="samples interact"):
        gradient_norms(linear_model(run), normal(4, 4), log_prob=call)


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.a(x + 3e-3 * x.mean(0)).square().sum(1) - 3000,
        lambda m, x: m.a(x + 0.3 * x.mean(0)).square().sum(1) - 1e5,
        # the first sample sees none, the last one all of the others
        lambda m, x: m.a(x + 0.01 * x.cumsum(0)).square().sum(1) - 1e5,
        # outside what the tape can serve
        lambda m, x: m.a((x + 0.01 * x.mean(0))[torch.arange(len(x)) + 0 * x[:, 0].long()]).square().sum(1) - 1e5,
    ],
)
def test_no_size_of_log_p_hides_that_samples_interact(run):
    with pytest.raises(ModelError, match="samples interact"):
        gradient_norms(linear_model(run).float(), normal(8, 4).float(), log_prob=lambda m, x: m(x))


def test_round_off_is_no_interaction():
    """Noise is so far from faces that single precision tells a batch from its samples in the fourth digit."""
    model = load_model("zoo:glow-celeba")
    noise = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    alone = torch.cat([model.log_prob(noise[i : i + 1]).detach() for i in range(3)])
    assert float(alone.max()) < -1e5
    found = gradient_norms(model, noise.float())
    assert all(torch.isfinite(value).all() for value in found.values())


def test_interacting_integer_samples_are_refused():
    model = Model(lambda m, x: m.table(x) * (1 + x.double().mean()), table=nn.Embedding(5, 3))
    with pytest.raises(ModelError, match="samples interact"):
        gradient_norms(model, torch.arange(12).view(6, 2) % 5, log_prob=call)


def root_model() -> Model:
    """Its log p of a sample of zeros is finite, the gradient of ``a.weight`` is not."""
    torch.manual_seed(0)
    layers = {"a": nn.Linear(4, 3, bias=False), "b": nn.Linear(4, 3)}
    return Model(lambda m, x: -m.a(x).square().sum(1, keepdim=True).sqrt() - m.b(x).square(), **layers)


@pytest.mark.parametrize(("group_size", "said"), [(1, "sample 3"), (2, "samples 2 to 3")])
@pytest.mark.parametrize("method", ["batched", "loop"])
def test_norms_that_are_not_finite_are_refused_by_name(method, group_size, said):
    x = normal(6, 4)
    x[3] = 0
    with pytest.raises(DataError, match=f"squared gradient norm of 'a.weight' for {said} is NaN or infinite"):
        gradient_norms(root_model(), x, log_prob=call, group_size=group_size, method=method)
    with pytest.raises(DataError, match=f"gradient sketch for {said} is NaN or infinite"):
        gradient_sketch(root_model(), x, log_prob=call, size=8, group_size=group_size)
    with pytest.raises(DataError, match=f"gradient sketch of 'a.weight' for {said} is NaN or infinite"):
        gradient_sketch(root_model(), x, log_prob=call, size=8, group_size=group_size, per_layer=True)


def test_a_finite_gradient_whose_square_is_not_is_refused():
    model = linear_model(lambda m, x: 1e12 * m.a(x)).float()
    with pytest.raises(DataError, match=r"squared gradient norm of 'a\.\w+' for sample 0 .* range of the model's"):
        gradient_norms(model, normal(4, 4).float(), log_prob=call)


def test_noise_without_keys_is_refused_and_with_keys_is_not():
    def unkeyed(module, x):
        return module(x + torch.randn_like(x))

    def keyed(module, x, seed, keys):
        noise = np.stack([np.random.default_rng([seed, int(key)]).standard_normal(4) for key in keys])
        return module(x + torch.from_numpy(noise))

    with pytest.raises(ModelError, match="random"):
        gradient_norms(linear_model(), normal(4, 4), log_prob=unkeyed)
    found, expected = (
        gradient_norms(linear_model(), normal(6, 4), log_prob=keyed, seed=3, method=m) for m in ("batched", "loop")
    )
    assert_close_norms(found, expected)
    other = gradient_norms(linear_model(), normal(6, 4), log_prob=keyed, seed=4)
    assert not torch.allclose(found["a.weight"], other["a.weight"])


@pytest.mark.parametrize("method", ["batched", "loop"])
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda m, x: m.a(x).sum(), r"returned torch.float64 \(\)"),
        (lambda m, x: m.a(x), r"returned .* expected a floating tensor"),
        (lambda m, x: m.a(x).sum(1).long(), "torch.int64"),
        (lambda m, x: m.a(x).sum(1).detach(), "not differentiable"),
        (lambda m, x: m.a(x).sum(1).tolist(), "list"),
        (lambda m, x: m.a(x).sum(1) / (x[:, 0] != x[:, 0].max() if len(x) > 1 else x[:, 0] < 1e9), "inf|interact"),
    ],
)
def test_bad_log_prob_is_refused(run, message, method):
    if "interact" in message and method == "loop":
        pytest.skip("alone, no sample is the largest")
    model = linear_model()
    with pytest.raises(ModelError, match=message):
        gradient_norms(model, normal(4, 4), log_prob=lambda m, x: run(m, x), method=method)


@pytest.mark.parametrize("method", ["batched", "loop"])
@pytest.mark.parametrize("row", [0, 5])
def test_nan_names_the_sample(method, row):
    x = normal(6, 4)
    x[row, 1] = float("nan")
    with pytest.raises(ModelError, match=f"log p of sample {row} is nan"):
        gradient_norms(linear_model(), x, log_prob=call, method=method)


def test_bad_arguments():
    model = linear_model()
    with pytest.raises(DataError, match="5 samples do not divide into groups of 2"):
        gradient_norms(model, normal(5, 4), log_prob=call, group_size=2)
    with pytest.raises(DataError, match="empty"):
        gradient_norms(model, normal(0, 4), log_prob=call)
    with pytest.raises(DataError, match=r"lengths \[3, 4\]"):
        gradient_norms(model, (normal(3, 4), normal(4, 4)), log_prob=call)
    with pytest.raises(DataError, match="ndarray"):
        gradient_norms(model, normal(3, 4).numpy(), log_prob=call)
    with pytest.raises(DataError, match="keys"):
        gradient_norms(model, normal(3, 4), log_prob=call, keys=np.arange(3))
    with pytest.raises(SettingError, match="group_size is 0"):
        gradient_norms(model, normal(3, 4), log_prob=call, group_size=0)
    with pytest.raises(SettingError, match="'fast'"):
        gradient_norms(model, normal(3, 4), log_prob=call, method="fast")
    with pytest.raises(SettingError, match="max_memory is 0"):
        gradient_norms(model, normal(3, 4), log_prob=call, max_memory=0)
    with pytest.raises(SettingError, match="sketch size is 4"):
        gradient_sketch(model, normal(3, 4), log_prob=call, size=4)
    with pytest.raises(ModelError, match="no method log_prob"):
        gradient_norms(model, normal(3, 4))
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ModelError, match="requires_grad=True"):
        gradient_norms(model, normal(3, 4), log_prob=call)


def test_models_that_change_themselves_are_refused_and_put_back():
    model = Model(lambda m, x: m.a(x), a=parametrizations.spectral_norm(nn.Linear(4, 4)))
    model.train()
    before = {name: b.clone() for name, b in model.named_buffers()}
    with pytest.raises(ModelError, match=r"buffer 'a.parametrizations.weight.0._u'.*eval"):
        gradient_norms(model, normal(4, 4), log_prob=call)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())

    def initialises(module, x):
        with torch.no_grad():
            module.a.bias.add_(1)
        return module(x)

    with pytest.raises(ModelError, match=r"parameter 'a\.bias'"):
        gradient_norms(linear_model(), normal(4, 4), log_prob=initialises)


def test_the_user_finds_everything_as_it_was():
    model = linear_model(lambda m, x: m.a(x) * m.w)
    model.w = parameter(3)
    frozen = nn.Parameter(normal(2), requires_grad=False)
    model.frozen = frozen
    model.a.weight.grad = torch.ones_like(model.a.weight)
    x = normal(4, 4)
    attributes = [set(vars(t)) for t in (x, *model.parameters())]
    found = gradient_norms(model, x, log_prob=call)
    assert "frozen" not in found
    assert torch.equal(model.a.weight.grad, torch.ones_like(model.a.weight)) and model.a.bias.grad is None
    assert [set(vars(t)) for t in (x, *model.parameters())] == attributes
    assert not model.training and not frozen.requires_grad and not x.requires_grad

    class BoomError(Exception):
        pass

    def fails(module, x):
        module(x)
        raise BoomError

    with pytest.raises(BoomError):
        gradient_norms(model, x, log_prob=fails)
    assert_close_norms(found, gradient_norms(model, x, log_prob=call))


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_rests_during_a_pass_and_is_left_as_it_was(collects):
    seen = []

    def log_p(m, x):
        seen.append(gc.isenabled())
        return m.a(x).sum(1) / (0.0 if len(x) == 5 else 1.0)

    model = Model(None, a=nn.Linear(4, 3))
    for _ in range(2):  # the first and the second pass are checked
        gradient_norms(model, normal(6, 4), log_prob=log_p)
    (gc.enable if collects else gc.disable)()
    try:
        seen.clear()
        gradient_norms(model, normal(6, 4), log_prob=log_p)
        assert seen == [False]
        assert gc.isenabled() is collects
        with pytest.raises(ModelError, match="log p of sample 0"):
            gradient_norms(model, normal(5, 4), log_prob=log_p)
        assert gc.isenabled() is collects
    finally:
        gc.enable()


def test_calls_under_no_grad_and_inference_mode():
    model = linear_model()
    expected = gradient_norms(model, normal(4, 4), log_prob=call, method="loop")
    with torch.no_grad():
        assert_close_norms(gradient_norms(model, normal(4, 4), log_prob=call), expected)
    with torch.inference_mode():
        assert_close_norms(gradient_norms(model, normal(4, 4).clone(), log_prob=call), expected)


def test_nested_calls():
    inner = linear_model()

    def outer(module, x):
        weight = gradient_norms(inner, normal(4, 4), log_prob=call)["a.bias"][0]
        return call(module, x) * weight

    model = linear_model()
    found, expected = (gradient_norms(model, normal(4, 4), log_prob=outer, method=m) for m in ("batched", "loop"))
    assert_close_norms(found, expected)


def test_a_model_that_changes_is_probed_again():
    model = linear_model(lambda m, x: m.a(x).tanh() if m.flag else m.a(m.a(x)[:, :1].expand(-1, 4)))
    model.flag = True
    for flag in (True, False, True):
        model.flag = flag
        found, expected = (gradient_norms(model, normal(4, 4), log_prob=call, method=m) for m in ("batched", "loop"))
        assert_close_norms(found, expected)


def test_zero_initialised_model_is_right_before_and_after_it_learns():
    torch.manual_seed(0)
    layers = {"a": nn.Linear(4, 5), "b": nn.Linear(5, 3)}
    model = Model(lambda m, x: m.b(torch.tanh(m.a(x))), **layers)
    for p in model.b.parameters():
        nn.init.zeros_(p)
    first = gradient_norms(model, normal(4, 4), log_prob=call)
    assert torch.equal(first["a.weight"], torch.zeros(4).double()) and (first["b.bias"] > 0).all()
    nn.init.normal_(model.b.weight)
    found, expected = (gradient_norms(model, normal(4, 4), log_prob=call, method=m) for m in ("batched", "loop"))
    assert_close_norms(found, expected)


def test_zero_initialised_model_with_a_folded_batch():
    torch.manual_seed(0)
    layers = {"a": nn.Linear(4, 5), "b": nn.Linear(5, 3)}
    model = Model(lambda m, x: m.b(torch.tanh(m.a(x.view(-1, 4)))).view(len(x), 2, 3), **layers)
    nn.init.zeros_(model.b.weight)
    for scale in (0.0, 1.0):
        nn.init.normal_(model.b.weight, std=scale)
        found, expected = (gradient_norms(model, normal(4, 8), log_prob=call, method=m) for m in ("batched", "loop"))
        assert_close_norms(found, expected)


def mask_of(lengths, steps):
    return torch.arange(steps)[None] < lengths[:, None]


def by_masked_select(m, tokens, lengths):
    mask = mask_of(lengths, tokens.shape[1])
    rows = torch.masked_select(tokens, mask[..., None]).view(-1, tokens.shape[2])
    found = torch.tanh(m.a(rows)).square().sum(1)
    return torch.zeros(mask.shape, dtype=found.dtype).masked_scatter(mask, found).sum(1)


def by_index_select(m, tokens, lengths):
    mask = mask_of(lengths, tokens.shape[1])
    index = mask.flatten().nonzero()[:, 0]
    found = torch.tanh(m.a(torch.index_select(tokens.flatten(0, 1), dim=-2, index=index))).square().sum(1)
    return (
        torch.zeros(mask.numel(), dtype=found.dtype).index_add(dim=0, index=index, source=found).view(mask.shape).sum(1)
    )


def by_embedding(m, tokens, lengths):
    mask = mask_of(lengths, tokens.shape[1])
    index = mask.flatten().nonzero()[:, 0]
    found = torch.tanh(m.a(F.embedding(index, tokens.flatten(0, 1)))).square().sum(1)
    return torch.zeros(mask.numel(), dtype=found.dtype).scatter_add_(0, index, found).view(mask.shape).sum(1)


def by_repeating(m, tokens, lengths):
    rows = torch.repeat_interleave(tokens[:, 0], lengths, dim=0)
    owner = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
    found = torch.tanh(m.a(rows)).square().sum(1)
    return torch.zeros(len(tokens), dtype=found.dtype).index_add_(0, owner, found)


def by_packing(m, tokens, lengths):
    packed = nn.utils.rnn.pack_padded_sequence(tokens, lengths, batch_first=True, enforce_sorted=False)
    found = packed._replace(data=torch.tanh(m.a(packed.data)))
    return (
        nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=tokens.shape[1])[0].square().sum((1, 2))
    )


def by_assignment(m, tokens, lengths):
    mask = mask_of(lengths, tokens.shape[1])
    found = torch.zeros(mask.shape, dtype=tokens.dtype)
    found[mask] = torch.tanh(m.a(tokens[mask])).square().sum(1)
    return found.sum(1)


@pytest.mark.parametrize(
    "run", [by_masked_select, by_index_select, by_embedding, by_repeating, by_packing, by_assignment]
)
@pytest.mark.parametrize("lengths", [[4, 4, 4, 3, 5, 4], [4, 3, 5, 4, 4, 4]])
def test_rows_that_move_by_their_values_go_to_the_loop(run, lengths):
    """The three samples of the probe may have one length, and the batch may have as many rows as if all had it."""
    model = Model(lambda m, x: run(m, *x), a=nn.Linear(4, 3))
    x = (normal(6, 6, 4), torch.tensor(lengths))
    found, expected = (gradient_norms(model, x, log_prob=lambda m, x: m(x), method=m) for m in ("batched", "loop"))
    assert_close_norms(found, expected)


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.a(m.k[x[1]]),
        lambda m, x: m.a(x[0]) * m.k[x[1]].sum(1, keepdim=True),
        lambda m, x: m.a(F.embedding(x[1], m.k)),
        lambda m, x: m.a(x[0]).log_softmax(1).gather(1, x[1][:, None] % 3),
        lambda m, x: m.a(x[0].masked_fill(x[0] < 0, 0.5)),
        lambda m, x: m.a(torch.where(x[0] < 0, x[0] * 2, x[0])),
    ],
)
def test_tables_and_masks_within_a_sample_stay_fast(run):
    model = Model(run, a=nn.Linear(4, 3), k=nn.Buffer(normal(7, 4)))
    assert_equals_loop(model, (normal(6, 4), torch.tensor([0, 6, 2, 3, 1, 5])), call)


def test_the_input_may_be_changed_in_place():
    x = normal(6, 4)
    before = x.clone()
    for run in (
        lambda m, x: m.a(x.clamp_(-0.5, 0.5)),
        lambda m, x: m.a(x.mul_(2)),
        lambda m, x: m.a(x.add_(m.w)),
    ):
        model = Model(run, a=nn.Linear(4, 3), w=parameter(4))
        found, expected = (gradient_norms(model, x, log_prob=call, method=m) for m in ("batched", "loop"))
        assert_close_norms(found, expected)
        assert torch.equal(x, before)


def test_complex_numbers_on_the_way():
    def small_part(m, x):
        return (x * m.w).square().sum(1) * 3 + 0.02 * (x * torch.complex(m.w, m.v)).abs().sum(1)

    filtered = Model(lambda m, x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(m.w), n=8), w=parameter(8))
    assert_equals_loop(filtered, normal(6, 8), call)
    mixed = Model(small_part, w=parameter(4), v=parameter(4))
    assert_equals_loop(mixed, normal(6, 4), lambda m, x: m(x))


def test_sparse_gradients():
    model = Model(lambda m, x: m.table(x), table=nn.Embedding(5, 3, sparse=True))
    x = torch.arange(12).view(6, 2) % 5
    found, expected = (gradient_norms(model, x, log_prob=call, method=m) for m in ("batched", "loop"))
    assert_close_norms(found, expected)
    dense = Model(lambda m, x: m.table(x), table=nn.Embedding(5, 3)).double()
    dense.load_state_dict(model.state_dict())
    assert_close_norms(found, gradient_norms(dense, x, log_prob=call))


def test_the_report_says_what_the_loop_costs():
    model = Model(lambda m, x: m.a(x) + torch.vmap(m.b)(x), a=nn.Linear(4, 3), b=nn.Linear(4, 3))
    rows = {row.parameter: row for row in rules_report(model, normal(6, 4), log_prob=call).rows}
    assert rows["b.weight"].rules[0].startswith("loop") and rows["b.weight"].seconds > 0
    silent = Model(lambda m, x: m.a(x) + torch.vmap(m.b)(x) * 0, a=nn.Linear(4, 3), b=nn.Linear(4, 3))
    rows = {row.parameter: row for row in rules_report(silent, normal(6, 4), log_prob=call).rows}
    assert rows["b.weight"].zero and not rows["a.weight"].zero


@pytest.mark.parametrize("run", [lambda m, x: -((x - m.a) ** 2) * m.b.exp(), lambda m, x: torch.relu(x * m.a) * m.b])
def test_samples_may_be_single_numbers(run):
    model = Model(None, a=parameter(), b=parameter())
    x = torch.tensor([-1.0, -2.0, -3.0, 4.0, 5.0, -6.0], dtype=torch.float64)  # the second's first three: no gradient
    batched, loop = (gradient_norms(model, x, log_prob=run, method=method) for method in ("batched", "loop"))
    assert_close_norms(batched, loop)
    assert loop["b"].max() > 0
