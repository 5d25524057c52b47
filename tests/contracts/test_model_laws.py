"""Laws that every model family and adapter keeps, over one tiny model of each with non-trivial weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn

import fisherscope
from fisherscope.core.keys import sample_keys
from fisherscope.features.gradients import gradient_norms
from fisherscope.models.base import GenerativeModel, load_model, make_model, model_fingerprint
from fisherscope.models.glow import Glow
from fisherscope.models.protocols import SumOfTerms
from fisherscope.models.tabular import TabularFlow
from fisherscope.models.zoo import zoo_entries


@dataclass(frozen=True)
class Flow:
    """A flow as two maps and points to try them at."""

    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    inverse: Callable[[Tensor], Tensor]
    point: Tensor


@dataclass(frozen=True)
class Case:
    """A model under the laws.

    ``needs`` is a library that an extra brings; ``silent`` are endings of the names of parameters whose gradient is
    zero by construction; ``order`` maps the place of an entry in the model's order of generation to its place in the
    flattened sample; ``terms`` is how many log p is a sum of, 0 where it is one.
    """

    name: str
    make: Callable[[], GenerativeModel]
    noisy: bool = True
    needs: str | None = None
    silent: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 255.0
    discrete: bool = True
    dtype: torch.dtype = torch.uint8
    scale: float = 0.1
    terms: int = 0
    flow: Callable[[GenerativeModel, torch.dtype], Flow] | None = None
    conditionals: Callable[[GenerativeModel, Tensor], Tensor] | None = None
    order: Callable[[int], int] = field(default=lambda i: i)

    def model(self) -> GenerativeModel:
        """Return the model with every parameter moved off its initial value (zeros hide mistakes)."""
        model = self.make().eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                p += self.scale * torch.randn(p.shape, generator=generator)
        return model

    def data(self, n: int, seed: int = 0) -> Tensor:
        """Return n samples: bytes, or normal numbers where the data are not discrete."""
        generator = torch.Generator().manual_seed(seed)
        shape = (n, *self.make().data_shape)
        if self.discrete:
            return torch.randint(0, 256, shape, generator=generator, dtype=self.dtype)
        return torch.randn(shape, generator=generator)


def glow_flow(model: GenerativeModel, dtype: torch.dtype) -> Flow:
    """Return Glow as a map from scaled images to all its latents."""
    assert isinstance(model, Glow)

    def forward(v: Tensor) -> tuple[Tensor, Tensor]:
        latents, log_det = model.encode(v)
        return torch.cat([z.flatten(1) for z in latents], dim=1), log_det

    def inverse(z: Tensor) -> Tensor:
        sizes = [c * h * w for c, h, w in model.latent_shapes]
        parts = [p.unflatten(1, s) for p, s in zip(z.split(sizes, dim=1), model.latent_shapes, strict=True)]
        return model.decode(parts)

    generator = torch.Generator().manual_seed(2)
    point = torch.rand(2, *model.data_shape, generator=generator, dtype=torch.float64) - 0.5
    return Flow(forward, inverse, point.to(dtype))


def glow(shape: tuple[int, int, int], permutation: str) -> Callable[[], GenerativeModel]:
    """Return a factory of small Glows."""
    return lambda: make_model("glow", data_shape=shape, steps=2, hidden=6, permutation=permutation)


def diffusion(**settings: object) -> Callable[[], GenerativeModel]:
    """Return a factory of small diffusion models."""
    small = {"data_shape": (1, 8, 8), "channels": 16, "multipliers": (1, 2), "diffusion_steps": 40, "heads": 2}
    return lambda: make_model("diffusion", **(small | settings))


def vae(shape: tuple[int, int, int], likelihood: str, count: int) -> Callable[[], GenerativeModel]:
    """Return a factory of small VAEs."""
    settings = {"latents": 4, "hidden": 4, "likelihood": likelihood, "importance_samples": count}
    return lambda: make_model("vae", data_shape=shape, **settings)


def pixelcnn(name: str, shape: tuple[int, int, int], output: str) -> Case:
    """Return the case of a small PixelCNN, which generates pixel by pixel, channels inside."""
    channels, height, width = shape
    return Case(
        f"pixelcnn-{name}",
        lambda: make_model("pixelcnn", data_shape=shape, hidden=6, layers=2, output=output, components=3),
        noisy=False,
        conditionals=lambda model, x: model.conditionals(x).permute(0, 2, 3, 1).flatten(1),
        order=lambda i: (i % channels) * height * width + i // channels,
    )


def tabular_flow(model: GenerativeModel, dtype: torch.dtype) -> Flow:
    """Return a zuko flow as a map from rows to latents."""
    assert isinstance(model, TabularFlow)
    transform = model.flow().transform
    point = torch.randn(3, *model.data_shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Flow(transform.call_and_ladj, transform.inv, point.to(dtype))


def tabular(kind: str) -> Case:
    """Return the case of a small tabular flow."""
    make = lambda: make_model("tabular", data_shape=(4,), flow=kind, transforms=2, hidden=(8,))  # noqa: E731
    return Case(f"tabular-{kind}", make, noisy=False, discrete=False, low=-5, high=5, flow=tabular_flow, needs="zuko")


def diffusers_model() -> GenerativeModel:
    """Return a small UNet2DModel of diffusers with a scheduler."""
    unet = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [8, 8],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    return make_model("diffusers", unet=unet, scheduler={"num_train_timesteps": 40}, timesteps=(1, 9))


def transformers_model() -> GenerativeModel:
    """Return a small GPT-2 of transformers."""
    gpt2 = {"model_type": "gpt2", "vocab_size": 256, "n_positions": 12, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return make_model("transformers", architecture=gpt2 | {"bos_token_id": 0, "eos_token_id": 0}, window=7)


CASES = [
    Case("glow-plain", glow((1, 8, 8), "plain"), flow=glow_flow),
    Case("glow-lu", glow((3, 4, 4), "lu"), flow=glow_flow),
    Case("diffusion-terms", diffusion(timesteps=(1, 2, 7), draws=2), terms=3),
    Case("diffusion-bound", diffusion(data_shape=(3, 6, 6), timesteps=None, patch=2, schedule="linear")),
    Case("diffusion-l2", diffusion(timesteps=(5, 20), weight="l2"), terms=2),
    Case("diffusion-l1", diffusion(timesteps=None, weight="l1")),
    Case("vae-logistic", vae((1, 9, 7), "logistic", 1), terms=3),
    Case("vae-gaussian", vae((3, 6, 6), "gaussian", 4)),
    pixelcnn("grey-softmax", (1, 5, 6), "softmax"),
    pixelcnn("colour-softmax", (3, 4, 3), "softmax"),
    pixelcnn("grey-mixture", (1, 6, 5), "mixture"),
    pixelcnn("colour-mixture", (3, 3, 4), "mixture"),
    Case(
        "language",
        lambda: make_model("language", data_shape=(9,), width=8, layers=2, heads=2),
        noisy=False,
        conditionals=lambda model, x: model.conditionals(x),
    ),
    tabular("NSF"),
    tabular("MAF"),
    tabular("NICE"),
    Case("diffusers", diffusers_model, needs="diffusers", silent=("to_k.bias",), terms=2),
    Case(
        "transformers",
        transformers_model,
        needs="transformers",
        noisy=False,
        dtype=torch.int64,
        conditionals=lambda model, x: model.conditionals(x),
    ),
]

PROCESS = """
import sys, torch
from fisherscope.models.base import load_model
for folder in sys.argv[1:]:
    x = torch.load(folder + "/x.pt", weights_only=True)
    print([v.hex() for v in load_model(folder).log_prob(x).tolist()])
"""


def installed(case: Case | BareModel) -> bool:
    """Tell whether the library that a case needs is there."""
    return case.needs is None or importlib.util.find_spec(case.needs) is not None


def parameters(cases: list[Case] | list[BareModel]) -> list[ParameterSet]:
    """Return cases as test parameters, skipped with a reason where their library is missing."""
    return [
        pytest.param(c, id=c.name, marks=pytest.mark.skipif(not installed(c), reason=f"{c.needs} is not installed"))
        for c in cases
    ]


@pytest.fixture(params=parameters(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def model(case: Case) -> GenerativeModel:
    return case.model().double()


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs() / b.abs().clamp(min=1e-12)).detach().max())


def test_log_p_is_one_finite_number_a_sample(case: Case, model: GenerativeModel) -> None:
    x = case.data(5)
    log_p = model.log_prob(x)
    assert log_p.shape == (5,) and log_p.dtype == torch.float64 and log_p.requires_grad
    assert torch.isfinite(log_p).all() and len(set(log_p.tolist())) == 5
    assert torch.equal(model(x), log_p)
    extremes = torch.stack([torch.full_like(x[0], v) for v in (case.low, case.high)])
    assert torch.isfinite(model.log_prob(extremes)).all()
    single = case.model().log_prob(x)
    assert single.dtype == torch.float32 and relative(single.double(), log_p) < 1e-3


def test_a_sample_does_not_see_its_batch(case: Case, model: GenerativeModel) -> None:
    x = case.data(6)
    log_p = model.log_prob(x)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    assert relative(model.log_prob(x[order]), log_p[order]) < 1e-10
    for i in (0, 5):
        assert relative(model.log_prob(x[i : i + 1]), log_p[i : i + 1]) < 1e-10
    other = x.clone()
    other[1:] = case.data(6, seed=9)[1:]
    assert relative(model.log_prob(other)[:1], log_p[:1]) < 1e-10


@pytest.mark.parametrize("case", parameters([c for c in CASES if c.terms]))
def test_the_terms_of_log_p_add_up(case: Case) -> None:
    model, x = case.model().double(), case.data(3)
    assert isinstance(model, SumOfTerms) and len(model.term_names) == case.terms
    keys = sample_keys(x.numpy())
    terms = [model.term_log_prob(x, i, seed=3, keys=keys) for i in range(len(model.term_names))]
    assert all(term.shape == (3,) for term in terms)
    torch.testing.assert_close(sum(terms), model.log_prob(x, seed=3, keys=keys))


def test_noise_belongs_to_seed_and_key(case: Case, model: GenerativeModel) -> None:
    x = case.data(3)
    keys = sample_keys(x.numpy())
    log_p = model.log_prob(x)
    assert torch.equal(model.log_prob(x, keys=keys), log_p)
    assert torch.equal(model.log_prob(x, seed=0), log_p)
    again, other = model.log_prob(x, seed=1), model.log_prob(x, keys=keys + np.uint64(1))
    noisy = case.noisy
    assert torch.equal(again, log_p) != noisy and torch.equal(other, log_p) != noisy
    state = torch.random.get_rng_state()
    model.log_prob(x)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_input_is_left_alone_and_its_dtype_does_not_matter(case: Case, model: GenerativeModel) -> None:
    x = case.data(3)
    before = x.clone()
    log_p = model.log_prob(x)
    assert torch.equal(x, before)
    if x.dtype == torch.uint8:
        assert torch.equal(model.log_prob(x.float()), log_p) and torch.equal(model.log_prob(x.double()), log_p)


def test_samples(case: Case) -> None:
    model = case.model()
    state = torch.random.get_rng_state()
    drawn = model.sample(3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert drawn.shape == (3, *model.data_shape) and drawn.dtype == case.data(1).dtype
    assert drawn.min() >= model.value_range[0] and drawn.max() <= model.value_range[1]
    assert not drawn.requires_grad and torch.isfinite(model.log_prob(drawn)).all()
    assert torch.equal(model.sample(3, seed=1), drawn)
    # Other batch sizes round differently, which can move a pixel by one level.
    difference = (model.sample(1, seed=1).double() - drawn[:1].double()).abs().max()
    assert difference <= (1 if case.discrete else 1e-4)
    assert not torch.equal(model.sample(3, seed=2), drawn)
    assert model.n_dims == drawn[0].numel()


def test_save_and_load_are_bit_equal(case: Case, tmp_path: Path) -> None:
    model, x = case.model(), case.data(3)
    model.save(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert type(loaded) is type(model) and model_fingerprint(loaded) == model_fingerprint(model)
    expected = model.log_prob(x)
    assert torch.equal(loaded.log_prob(x), expected)


def test_a_new_process_computes_the_same_bits(tmp_path: Path) -> None:
    expected, cases = [], [case for case in CASES if installed(case)]
    for i, case in enumerate(cases):
        model, x = case.model(), case.data(3)
        model.save(tmp_path / str(i))
        torch.save(x, tmp_path / str(i) / "x.pt")
        expected.append([v.hex() for v in model.log_prob(x).tolist()])
    folders = [str(tmp_path / str(i)) for i in range(len(cases))]
    command = [sys.executable, "-W", "ignore", "-c", PROCESS, *folders]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for case, line, values in zip(cases, printed.splitlines(), expected, strict=True):
        assert line == str(values), case.name


def test_the_gradient_reaches_every_parameter(case: Case, model: GenerativeModel) -> None:
    parameters = dict(model.named_parameters())
    assert parameters and all(p.requires_grad for p in parameters.values())
    gradients = torch.autograd.grad(model.log_prob(case.data(4)).sum(), list(parameters.values()), allow_unused=True)
    total = sum(float(g.square().sum()) for g in gradients if g is not None)
    assert np.isfinite(total) and total > 0
    # Structural zeros (an attention key bias) are exact in theory and round-off in practice.
    silent = {
        name
        for name, g in zip(parameters, gradients, strict=True)
        if g is None or float(g.square().sum()) < 1e-24 * total
    }
    assert silent == {name for name in parameters if case.silent and name.endswith(case.silent)}


def test_storage_in_half_precision_changes_log_p_little(case: Case, tmp_path: Path) -> None:
    model, x = case.model(), case.data(4)
    model.save(tmp_path / "half", dtype=torch.float16)
    expected = model.log_prob(x)
    assert relative(load_model(tmp_path / "half").log_prob(x), expected) < 0.02


@pytest.mark.parametrize("case", parameters([c for c in CASES if c.flow]))
class TestFlows:
    """``case.flow(model)`` is (forward to a flat latent with log-det, inverse, a point of the right shape)."""

    def test_inversion(self, case: Case) -> None:
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
            flow = case.flow(case.model().to(dtype), dtype)
            latent, _ = flow.forward(flow.point)
            assert (flow.inverse(latent) - flow.point).abs().max() < tolerance

    def test_log_det_is_that_of_the_jacobian(self, case: Case) -> None:
        flow = case.flow(case.model().double(), torch.float64)
        log_det = flow.forward(flow.point)[1].detach()
        shape = flow.point.shape[1:]

        def flat(v: Tensor) -> Tensor:
            return flow.forward(v.reshape(1, *shape))[0].flatten()

        for i, point in enumerate(flow.point):
            jacobian = torch.autograd.functional.jacobian(flat, point.flatten())
            expected = torch.linalg.slogdet(jacobian)[1]
            assert abs(float(log_det[i] - expected)) < 1e-9 and abs(float(expected)) > 0.1


@pytest.mark.parametrize("case", parameters([c for c in CASES if c.conditionals]))
class TestAutoregressiveModels:
    """``case.conditionals(model, x)`` is log p of each entry given those before it, (n, n_dims), in order."""

    def test_conditionals_sum_to_log_p(self, case: Case) -> None:
        model, x = case.model().double(), case.data(3)
        assert relative(case.conditionals(model, x).sum(1), model.log_prob(x)) < 1e-12

    def test_no_entry_sees_a_later_one(self, case: Case) -> None:
        model, x = case.model().double(), case.data(1)
        before = case.conditionals(model, x)[0]
        reached = 0
        for i in range(model.n_dims):
            other = x.clone()
            other.view(-1)[case.order(i)] = 255 - other.view(-1)[case.order(i)]
            after = case.conditionals(model, other)[0]
            assert torch.equal(after[:i], before[:i])
            assert after[i] != before[i]
            reached += int(not torch.equal(after[i + 1 :], before[i + 1 :]))
        assert reached >= model.n_dims - 2, "later entries must depend on earlier ones"

    def test_probabilities_sum_to_one(self, case: Case) -> None:
        model, x = case.model().double(), case.data(1)
        levels = torch.arange(256)
        for i in (0, 1, model.n_dims // 2, model.n_dims - 1):
            every = x.repeat(256, *([1] * (x.dim() - 1)))
            every.view(256, -1)[:, case.order(i)] = levels
            total = case.conditionals(model, every)[:, i].detach().exp().sum()
            assert float(total) == pytest.approx(1.0, abs=1e-9)


@dataclass(frozen=True)
class BareModel:
    """A model that is no GenerativeModel: a module, and a callable that is its log-likelihood."""

    name: str
    make: Callable[[], nn.Module]
    log_prob: Callable[..., Tensor]
    needs: str | None = None


def zuko_flow() -> nn.Module:
    """Return a small zuko flow."""
    import zuko

    return zuko.flows.NSF(features=4, transforms=2, hidden_features=(8,))


def zuko_log_prob(flow: nn.Module, x: Tensor) -> Tensor:
    """Return what the adapter returns."""
    from fisherscope.models.adapters.zuko import log_prob

    return log_prob(flow, x)


def regression(module: nn.Module, x: Tensor) -> Tensor:
    """Return log p of the last column given the others, up to a constant."""
    return -(x[:, 3] - module(x[:, :3])[:, 0]).square()


@pytest.fixture(
    params=parameters(
        [
            BareModel("zuko", zuko_flow, zuko_log_prob, needs="zuko"),
            BareModel("module", lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)), regression),
        ]
    )
)
def bare(request: pytest.FixtureRequest) -> BareModel:
    return request.param


class TestModulesWithACallable:
    """The laws of models that the library only borrows: storage and sampling are their owner's."""

    @staticmethod
    def parts(bare: BareModel, n: int = 6) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        module = bare.make().double().eval()
        return module, torch.randn(n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def test_log_p_is_one_finite_number_a_sample(self, bare: BareModel) -> None:
        module, x = self.parts(bare)
        before, log_p = x.clone(), bare.log_prob(module, x)
        assert log_p.shape == (6,) and log_p.requires_grad and torch.isfinite(log_p).all()
        assert len(set(log_p.tolist())) == 6 and torch.equal(x, before)

    def test_a_sample_does_not_see_its_batch(self, bare: BareModel) -> None:
        module, x = self.parts(bare)
        log_p, order = bare.log_prob(module, x), torch.tensor([4, 0, 5, 2, 1, 3])
        assert relative(bare.log_prob(module, x[order]), log_p[order]) < 1e-10
        assert relative(bare.log_prob(module, x[2:3]), log_p[2:3]) < 1e-10

    def test_the_gradient_reaches_every_parameter_and_the_engine_finds_it(self, bare: BareModel) -> None:
        module, x = self.parts(bare)
        found = gradient_norms(module, x, log_prob=bare.log_prob)
        expected = gradient_norms(module, x, log_prob=bare.log_prob, method="loop")
        assert found.keys() == expected.keys() == {name for name, _ in module.named_parameters()}
        for name, value in expected.items():
            assert value.max() > 0 and relative(found[name], value) < 1e-8, name

    def test_a_guard_of_it_scores_alike_after_loading(self, bare: BareModel, tmp_path: Path) -> None:
        module, x = self.parts(bare, 200)
        guard = fisherscope.fit(module, x, log_prob=bare.log_prob, fpr=0.05)
        guard.save(tmp_path / "guard")
        again = fisherscope.load(tmp_path / "guard", module, bare.log_prob)
        other = x[:7] + 0.5
        assert guard.p_value(other).tolist() == again.p_value(other).tolist()


@pytest.mark.parametrize("name", [e.name for e in zoo_entries() if e.family == "glow"])
def test_the_zoos_flows_invert_in_single_precision(name: str) -> None:
    """On images like those that they learnt; far from them single precision is not enough (docs/models.md)."""
    model = load_model(name)
    assert isinstance(model, Glow)
    flow = glow_flow(model, torch.float32)
    point = (model.sample(4, seed=0).float() + 0.5) / 256 - 0.5
    assert (flow.inverse(flow.forward(point)[0]) - point).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["glow-fashion_mnist", "vae-mnist"])
def test_half_precision_in_the_file_is_below_what_tells_samples_apart(name: str) -> None:
    """The zoo's parameters were rounded to 11 bits: rounding them at random once more is as large a change.

    It moves log f_l by less than a fifth of what samples differ in (.13 on the Glow), log p by less than a twentieth.
    """
    model, again = load_model(f"zoo:{name}"), load_model(f"zoo:{name}")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in again.parameters():
            step = torch.ldexp(torch.ones_like(p), torch.frexp(p)[1] - 11)
            p += step * (torch.rand(p.shape, generator=generator) - 0.5)
    x = model.sample(24, seed=0).float()
    log_norms = [torch.stack([v.double().log() for v in gradient_norms(m, x).values()]) for m in (model, again)]
    moved, spread = (log_norms[1] - log_norms[0]).abs().median(), log_norms[0].std(1).median()
    assert 0 < moved < 0.2 * spread
    log_p = [m.log_prob(x).detach().double() for m in (model, again)]
    assert (log_p[1] - log_p[0]).abs().max() < 0.05 * log_p[0].std()
