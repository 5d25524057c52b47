"""d score / d x against finite differences of the whole way from the sample to the score, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.core.table import Card, FeatureTable
from fisherscope.detectors import make_detector, score_cotangent
from fisherscope.features.extractors import Request, choose_extractors, extract_blocks, gradient_features
from fisherscope.features.gradients import gradient_pass
from fisherscope.features.input_gradient import input_gradient
from fisherscope.features.metrics import SketchSettings, fit_metrics, make_metric
from fisherscope.features.second_gradient import second_gradient
from fisherscope.models.language import ByteTransformer
from fisherscope.models.noise import keys_of, normal_noise

SKETCH = SketchSettings(size=24, layer_size=8)


class Smooth(nn.Module):
    """A convolution, attention and keyed noise; every op has two derivatives."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.query = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)

    def log_prob(self, x, *, seed=0, keys=None):
        noisy = x + 0.3 * normal_noise(keys_of(x, keys), x.shape[1:], seed=seed, like=x)
        h = F.softplus(self.norm(self.conv(noisy))).flatten(2).mT
        h = F.scaled_dot_product_attention(self.query(h), h, h)
        return -(self.out(h).mT.reshape(x.shape) - x).square().flatten(1).sum(1)


@pytest.fixture(scope="module")
def model():
    return Smooth().double()


def images(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2, 3, 4))


def request_of(model, x, group_size=1, keys=None, **settings):
    return Request(model, None, x, sample_keys(x) if keys is None else keys, group_size, seed=5, **settings)


def table_of(request, blocks, metrics=()):
    extractors = choose_extractors(blocks, SKETCH, metrics)
    n, b = len(request.keys) // request.group_size, request.group_size
    return FeatureTable(
        blocks=extract_blocks(extractors, request),
        columns={k: v for e in extractors for k, v in e.columns(request.module).items()},
        ids=tuple(tuple(f"{i}.{j}" for j in range(b)) for i in range(n)),
        keys=request.keys.reshape(n, b),
        card=Card("m", "m", "d", "d", b, 5, "float64", {}),
    )


def metric_of(name, model):
    metric = make_metric(name, SKETCH)
    x = images(40, 9)

    def run(reductions, limit):
        gradient_pass(model, torch.from_numpy(x), reductions, seed=5, keys=sample_keys(x))

    fit_metrics([metric], run)
    return metric


DETECTORS = (
    "total-norm",
    "layerwise-gaussian",
    "layerwise-normalised-sum",
    "likelihood",
    "typicality",
    "pixel-mahalanobis",
    "rao-sketch",
    "rao-sketch-equalised",
    "rao-layers-normalised",
    "total-norm@diagonal",
    "layerwise-upper@kfac",
    "total-norm@low-rank",
    "total-norm@low-rank-global",
    "rao-sketch@whitened",
    "rao-sketch@gaussian",
)


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("name", DETECTORS)
def test_the_gradient_is_the_slope_of_the_whole_way(model, name, group_size):
    detector = make_detector(name)
    metrics = [metric_of(name.partition("@")[2], model)] if "@" in name else []
    detector.fit(table_of(request_of(model, images(60 * group_size, 1), group_size), detector.requires, metrics))
    request = request_of(model, images(2 * group_size, 2), group_size)

    def scores(x):
        return detector.score(table_of(replace(request, x=x), detector.requires, metrics))

    table = table_of(request, detector.requires, metrics)
    found = input_gradient(request, score_cotangent(detector, table), gradient_features(SKETCH, metrics))
    assert found.x.shape == request.x.shape and found.x.dtype == np.float64 and found.tokens is None
    rng = np.random.default_rng(3)
    for _ in range(3):
        direction = rng.normal(size=request.x.shape)
        expected = (scores(request.x + 1e-5 * direction) - scores(request.x - 1e-5 * direction)) / 2e-5
        slope = (found.x * direction).reshape(2, -1).sum(1)
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_noise_is_that_of_the_original_sample(model):
    detector = make_detector("total-norm").fit(table_of(request_of(model, images(4)), ["grad_norm"]))
    x, keys = images(2, 2), sample_keys(images(2, 2))
    features = gradient_features(SKETCH)

    def slope(shift, keys):
        request = request_of(model, x + shift, keys=keys)
        return input_gradient(request, score_cotangent(detector, table_of(request, ["grad_norm"])), features).x

    np.testing.assert_allclose(slope(1e-9, keys), slope(0, keys), rtol=1e-5)
    other = slope(0, sample_keys(images(2, 8)))
    assert np.abs(other - slope(0, keys)).max() > 1e-2 * np.abs(other).max()


def test_a_sample_does_not_depend_on_its_batch(model):
    detector = make_detector("total-norm").fit(table_of(request_of(model, images(4)), ["grad_norm"]))
    x = images(4, 2)

    def slope(x):
        request = request_of(model, x)
        table = table_of(request, ["grad_norm"])
        return input_gradient(request, score_cotangent(detector, table), gradient_features(SKETCH)).x

    np.testing.assert_allclose(slope(x[::-1].copy())[::-1], slope(x), rtol=1e-9)
    np.testing.assert_allclose(slope(x[:1]), slope(x)[:1], rtol=1e-9)


def test_contributions_of_the_layers_add_up(model):
    """<d score / d g, g> of a sum of squares is twice the score, and each layer's share is 2 f_l."""
    request = request_of(model, images(6, 2), 2)
    table = table_of(request, ["grad_norm"])
    detector = make_detector("total-norm").fit(table)
    found = input_gradient(request, score_cotangent(detector, table), gradient_features(SKETCH))
    np.testing.assert_allclose(found.contributions, 2 * table.block("grad_norm"), rtol=1e-9)
    assert found.layers == table.columns["grad_norm"]


def test_samples_may_be_a_pytree():
    module = nn.Linear(3, 2).double()

    def log_prob(module, x):
        return -(module(x["a"]).exp() * x["b"]["c"]).sum(1)

    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(2, 3)), "b": {"c": rng.normal(size=(2, 2)) ** 2}}
    request = Request(module, log_prob, x, sample_keys([x["a"], x["b"]["c"]]))
    found = input_gradient(request, {"log_p": np.ones((2, 1))}, [])
    np.testing.assert_allclose(found.x["b"]["c"], -module(torch.from_numpy(x["a"])).exp().detach(), rtol=1e-9)
    assert found.x["a"].shape == (2, 3)


class Positions(nn.Module):
    """Token and position embeddings, one prediction a token; ``style`` says how tokens are looked up."""

    def __init__(self, style):
        super().__init__()
        torch.manual_seed(0)
        self.style = style
        self.places = nn.Parameter(torch.randn(6, 3))
        self.words = nn.Embedding(11, 3)

    def log_prob(self, x):
        positions = self.places[torch.arange(6).expand(x.shape)]
        tokens = {
            "module": lambda: self.words(x.long()),
            "index": lambda: self.words.weight[x.long()],
            "select": lambda: self.words.weight.index_select(0, x.long().flatten()).reshape(*x.shape, 3),
        }[self.style]()
        return -(tokens + positions).tanh().cumsum(1).square().sum((1, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("style", ["module", "index", "select"])
def test_tokens_are_differentiated_where_they_are_looked_up(style, dtype):
    model = Positions(style).double()
    x = np.random.default_rng(0).integers(0, 11, (2, 6)).astype(dtype)
    request = Request(model, None, x, sample_keys(x))
    table = table_of(request, ["grad_norm"])
    cotangent = score_cotangent(make_detector("total-norm").fit(table), table)
    found = input_gradient(request, cotangent, gradient_features(SKETCH))
    assert found.tokens.shape == (2, 6, 3)
    words = model.words.weight.detach().numpy()
    np.testing.assert_allclose(found.embedded, words[x.astype(int)] - words.mean(0), rtol=1e-12)
    assert found.tokens.any(2).all() and not found.x.any()


def test_the_gradient_at_an_embedding_is_exact():
    """Against finite differences of a model whose embedding output is shifted, the table left as it is."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words = nn.Embedding(7, 3)
            self.mix = nn.Linear(3, 3)
            self.shift = torch.zeros(5, 3, dtype=torch.float64)

        def log_prob(self, x):
            h = self.mix(self.words(x) + self.shift).tanh().cumsum(1)
            return -(h * self.words.weight.sum()).square().sum((1, 2))

    model = Shifted().double()
    x = np.asarray([[3, 1, 1, 6, 0]])
    request = Request(model, None, x, sample_keys(x))
    detector = make_detector("total-norm").fit(table_of(request, ["grad_norm"]))
    cotangent = score_cotangent(detector, table_of(request, ["grad_norm"]))
    found = input_gradient(request, cotangent, gradient_features(SKETCH)).tokens[0]
    direction, scores = torch.randn(5, 3, dtype=torch.float64), []
    for sign in (1, -1):
        model.shift = sign * 1e-5 * direction
        scores.append(detector.score(table_of(replace(request, method="loop"), ["grad_norm"]))[0])
    np.testing.assert_allclose((found * direction.numpy()).sum(), (scores[0] - scores[1]) / 2e-5, rtol=1e-6)


def test_a_start_symbol_is_skipped():
    model = ByteTransformer((8,), width=8, layers=1, heads=2).double()
    x = np.random.default_rng(0).integers(0, 256, (2, 8)).astype(np.uint8)
    request = Request(model, None, x, sample_keys(x))
    table = table_of(request, ["grad_norm"])
    cotangent = score_cotangent(make_detector("total-norm").fit(table), table)
    found = input_gradient(request, cotangent, gradient_features(SKETCH))
    assert found.tokens[:, :7].any(2).all()
    assert not found.tokens[:, 7].any()  # nothing is predicted from the last byte
    words = model.bytes.weight.detach().numpy()
    np.testing.assert_allclose(found.embedded, words[x] - words.mean(0), rtol=1e-12)


class Decoder(nn.Module):
    """Each token is predicted from those before it; ``style`` says how these are looked up."""

    def __init__(self, style, frozen=False):
        super().__init__()
        torch.manual_seed(0)
        self.style = style
        self.words = nn.Embedding(11, 3)
        self.others = nn.Embedding.from_pretrained(self.words.weight.detach().clone(), freeze=frozen)
        self.hidden, self.out = nn.Linear(3, 3), nn.Linear(3, 11)
        self.words.weight.requires_grad_(not frozen)

    def log_prob(self, x):
        h, summary = self.read(x.long())
        log_p = self.out(self.hidden(h).tanh() + summary.square()).log_softmax(2)
        return log_p.gather(2, x.long()[:, 1:, None]).sum((1, 2))

    def read(self, x):
        whole = self.words(x)
        before = whole[:, :-1]
        if self.style == "all but the last":
            before = self.words(x[:, :-1])
            return before, torch.zeros(())
        if self.style == "a shifted buffer":  # no op makes it from the tokens, it is written into
            buffer = torch.zeros(x.shape, dtype=torch.int64)
            buffer[:, 1:] = x[:, :-1]
            return self.words(buffer)[:, 1:], torch.zeros(())
        if self.style == "overwritten":
            return whole.mul_(2)[:, :-1] / 2, torch.zeros(())
        encoders = {"two lookups": lambda: self.words(x), "two tables": lambda: self.others(x)}
        summary = encoders.get(self.style, lambda: whole)()
        return before, torch.zeros(()) if self.style == "all" else summary.mean(1, keepdim=True)


def token_gradient(model, x=None, cotangent=None):
    x = np.asarray([[3, 1, 1, 10, 0, 7], [0, 0, 2, 5, 5, 9]]) if x is None else x
    request = Request(model.double(), None, x, sample_keys(x))
    if cotangent is None:
        table = table_of(request, ["grad_norm"])
        cotangent = score_cotangent(make_detector("total-norm").fit(table), table)
    return input_gradient(request, cotangent, gradient_features(SKETCH))


@pytest.mark.parametrize("style", ["all but the last", "a shifted buffer", "overwritten"])
def test_a_lookup_of_all_tokens_but_the_last_is_one_of_the_tokens(style):
    log_p = {"log_p": np.ones((2, 1))}
    found, expected = (token_gradient(Decoder(s), cotangent=log_p) for s in (style, "all"))
    assert found.tokens[:, :5].any(2).all() and not found.tokens[:, 5].any()
    np.testing.assert_allclose(found.tokens, expected.tokens, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found.embedded, expected.embedded, rtol=1e-12)


@pytest.mark.parametrize("style", ["all", "all but the last"])
def test_a_frozen_embedding_is_differentiated_too(style):
    log_p = {"log_p": np.ones((2, 1))}
    found, expected = (token_gradient(Decoder(style, frozen), cotangent=log_p) for frozen in (True, False))
    np.testing.assert_allclose(found.tokens, expected.tokens, rtol=1e-9, atol=1e-14)
    second = token_gradient(Decoder(style, frozen=True))  # of the other parameters' gradients
    assert second.tokens[:, :5].any(2).all() and not second.tokens[:, 5].any()


def test_all_lookups_of_the_tokens_are_added_up():
    log_p = {"log_p": np.ones((2, 1))}
    one, two = (token_gradient(Decoder(style)) for style in ("one lookup", "two lookups"))
    np.testing.assert_allclose(two.tokens, one.tokens, rtol=1e-9, atol=1e-14)
    one, tables = (token_gradient(Decoder(style), cotangent=log_p) for style in ("one lookup", "two tables"))
    assert tables.tokens.shape == tables.embedded.shape == (2, 6, 6)
    np.testing.assert_allclose(tables.tokens[..., :3] + tables.tokens[..., 3:], one.tokens, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(tables.embedded, np.concatenate([one.embedded] * 2, 2), rtol=1e-12)


def test_positions_are_not_taken_for_tokens_that_count_up():
    x = np.asarray([[0, 1, 2, 3, 4, 5], [5, 1, 2, 0, 4, 3]])
    found = token_gradient(Positions("module"), x)
    assert found.tokens.shape == (2, 6, 3)
    alone = token_gradient(Positions("module"), x[:1], {"log_p": np.ones((1, 1))}).tokens[0]
    both = token_gradient(Positions("module"), x, {"log_p": np.ones((2, 1))}).tokens[0]
    np.testing.assert_allclose(alone, both, rtol=1e-12)
    model = Positions("module").double()
    words = model.words(torch.from_numpy(x[:1])).detach().requires_grad_()
    value = -(words + model.places).tanh().cumsum(1).square().sum()
    np.testing.assert_allclose(alone, torch.autograd.grad(value, words)[0][0], rtol=1e-9)


def test_refusals():
    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def log_prob(self, x):
            return (x.detach().round() * self.scale).sum(1)

    x = np.random.default_rng(0).normal(size=(2, 3))
    request = Request(Rounded(), None, x, sample_keys(x))
    with pytest.raises(ModelError, match=r"depends on no sample differentiably.*nn.Embedding"):
        input_gradient(request, {"log_p": np.ones((2, 1))}, [])
    with pytest.raises(SettingError, match=r"the blocks \['regret'\] have no gradient"):
        input_gradient(request, {"regret": np.ones((2, 1))}, [])

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * 2

    class Crooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def log_prob(self, x):
            return Once.apply(x * self.scale).exp().sum(1)

    request = Request(Crooked(), None, x, sample_keys(x))
    with pytest.raises(ModelError, match="cannot be differentiated twice"):
        input_gradient(request, {"grad_norm": np.ones((2, 1))}, gradient_features(SKETCH))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_lack_of_memory_is_not_taken_for_a_missing_derivative(monkeypatch, error):
    def grad(*args, **kwargs):
        raise error

    value = torch.ones((), requires_grad=True)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    with pytest.raises(RuntimeError, match="memory") as caught:
        second_gradient(value.square(), [value])
    assert caught.value is error
