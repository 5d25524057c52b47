"""Maps of positions: complete, equal to a computation position by position, and refused where there are none."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fisherscope.core.keys import sample_keys
from fisherscope.features.extractors import Request, choose_extractors, extract_blocks, gradient_features
from fisherscope.features.gradients import gradient_pass
from fisherscope.features.gradients.reductions import GroupGradients
from fisherscope.features.metrics import SketchSettings
from fisherscope.features.position_map import NoPositionsError, position_map
from fisherscope.models.diffusion import Diffusion
from fisherscope.models.glow import Glow
from fisherscope.models.vae import VAE

SKETCH = SketchSettings(size=24, layer_size=8)
SHAPE = (2, 4, 8)


class Convolutions(nn.Module):
    """A padded and a strided convolution, each position's part of whose gradients is easily written down."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 2, 2, stride=2, bias=False)

    def log_prob(self, x):
        h = F.relu(self.first(x), inplace=True)
        return -(self.second(h) - F.avg_pool2d(x, 2)).square().flatten(1).sum(1)


class Awkward(nn.Module):
    """Derived and tied parameters, a log-determinant, broadcasting, in-place ops, and a layer without a grid."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.log_weight = nn.Parameter(torch.randn(2, 2, 3, 3) - 2)
        self.log_scale = nn.Parameter(torch.randn(2, 1, 1) / 3)
        self.linear = nn.Linear(64, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def log_prob(self, x):
        weight = self.log_weight.exp()
        h = F.conv2d(F.conv2d(x, weight, padding=1), weight, padding=1) * self.log_scale.exp()
        h.mul_(2)
        with torch.no_grad():
            level = h.mean((1, 2, 3), keepdim=True) * self.log_scale.exp().sum()
        value = -(h - x * level.cos()).square().flatten(1).sum(1) + self.linear(h.flatten(1)).tanh().sum(1)
        return value + 32 * self.log_scale.sum()


def images(n, shape=SHAPE, levels=False):
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (n, *shape)).astype(np.float64) if levels else rng.normal(size=(n, *shape))


def request_of(model, x, group_size=1):
    return Request(model, None, x, sample_keys(x), group_size, seed=5)


def cotangent_of(request, block):
    """Return a made-up d score / d block, and the inner product <v, g> that the maps have to add up to."""
    (extractor,) = choose_extractors([block], SKETCH)
    values = extract_blocks([extractor], request)[block]
    cotangent = np.random.default_rng(4).normal(size=values.shape)
    # the sketches are linear in g, the norms quadratic: <d f / d g, g> = 2 f
    inner = (cotangent * values).reshape(len(values), -1).sum(1) * (2 if block == "grad_norm" else 1)
    return {block: cotangent}, inner


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("block", ["grad_norm", "sketch", "layer_sketch"])
@pytest.mark.parametrize("kind", [Convolutions, Awkward])
def test_a_map_adds_up_to_the_scores_parameter_gradient(kind, block, group_size):
    request = request_of(kind().double(), images(4), group_size)
    cotangent, inner = cotangent_of(request, block)
    found = position_map(request, cotangent, gradient_features(SKETCH))
    assert found.maps.shape == (4, 4, 8) and found.maps.dtype == np.float64 and found.maps.std((1, 2)).all()
    np.testing.assert_allclose(found.maps.reshape(-1, group_size, 32).sum((1, 2)), inner, rtol=1e-10)
    np.testing.assert_allclose(found.contributions.sum(1), inner, rtol=1e-10)
    assert found.layers == tuple(name for name, _ in request.module.named_parameters())
    assert found.unplaced.any() == (kind is Awkward)


@pytest.mark.parametrize(
    "model",
    [
        Glow((1, 8, 8), steps=2, hidden=8, permutation="lu"),
        VAE((1, 8, 8)),
        Diffusion((1, 8, 8), channels=16, multipliers=[1, 2]),
    ],
    ids=["glow", "vae", "diffusion"],
)
def test_the_families_maps_add_up(model):
    torch.manual_seed(2)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 20
    request = request_of(model.double().eval(), images(2, (1, 8, 8), levels=True))
    cotangent, inner = cotangent_of(request, "sketch")
    found = position_map(request, cotangent, gradient_features(SKETCH))
    scale = np.abs(found.maps).sum((1, 2))
    np.testing.assert_allclose(found.maps.sum((1, 2)) / scale, inner / scale, atol=1e-10)
    assert (np.abs(found.unplaced) < scale).all()


def test_a_map_is_what_each_position_contributes():
    """Against the loop over positions: v times patch (x) output gradient, spread over the pixels of the position."""
    model, x = Convolutions().double(), images(1)
    request = request_of(model, x)
    cotangent, _ = cotangent_of(request, "grad_norm")
    found = position_map(request, cotangent, gradient_features(SKETCH)).maps[0]
    (gradients,) = gradient_pass(model, torch.from_numpy(x), [GroupGradients()], keys=request.keys).results
    names = list(gradients)
    weights = {n: 2 * float(c) * gradients[n][0] for n, c in zip(names, cotangent["grad_norm"][0], strict=True)}

    leaf = torch.from_numpy(x)
    first = model.first(leaf)
    hidden = first.relu()
    second = model.second(hidden)
    log_p = -(second - F.avg_pool2d(leaf, 2)).square().sum()
    delta_first, delta_second = torch.autograd.grad(log_p, [first, second])
    padded, expected = F.pad(leaf, (1, 1, 1, 1))[0], np.zeros((4, 8))
    for i in range(4):
        for j in range(8):
            outer = torch.einsum("o,chw->ochw", delta_first[0, :, i, j], padded[:, i : i + 3, j : j + 3])
            expected[i, j] += float((weights["first.weight"] * outer).sum())
            expected[i, j] += float((weights["first.bias"] * delta_first[0, :, i, j]).sum())
    for i in range(2):
        for j in range(4):
            patch = hidden.detach()[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            outer = torch.einsum("o,chw->ochw", delta_second[0, :, i, j], patch)
            expected[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += float((weights["second.weight"] * outer).sum()) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())


class Pointwise(nn.Module):
    """Linear maps and norms of the channels at each pixel, of channels-first or channels-last images."""

    def __init__(self, style):
        super().__init__()
        torch.manual_seed(0)
        self.style = style
        self.weight = nn.Parameter(torch.randn(4, 2))
        self.bias = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.randn(4))

    def log_prob(self, x):
        last = x.permute(0, 2, 3, 1)
        if self.style == "first":
            h = F.conv2d(x, self.weight[:, :, None, None], self.bias)
            normed = (h - h.mean(1, keepdim=True)) * (h.var(1, correction=0, keepdim=True) + 1e-5).rsqrt()
            h = (normed * self.scale[:, None, None]).permute(0, 2, 3, 1)
        elif self.style == "linear":
            h = F.layer_norm(F.linear(last, self.weight, self.bias), (4,), self.scale)
        else:
            h = torch.cat([last, torch.ones_like(last[..., :1])], 3) @ torch.cat([self.weight.mT, self.bias[None]])
            h = F.layer_norm(h, (4,), self.scale)
        return -(h.sin().square().sum((1, 2, 3)))


def test_channels_last_images_have_the_map_of_channels_first_ones():
    maps = {}
    for style in ("first", "linear", "matmul"):
        request = request_of(Pointwise(style).double(), images(2, (2, 8, 8)))
        cotangent, _ = cotangent_of(request, "grad_norm")
        found = position_map(request, cotangent, gradient_features(SKETCH))
        assert not found.unplaced.any()
        maps[style] = found.maps
    np.testing.assert_allclose(maps["linear"], maps["first"], rtol=1e-8, atol=1e-10 * np.abs(maps["first"]).max())
    np.testing.assert_allclose(maps["matmul"], maps["first"], rtol=1e-8, atol=1e-10 * np.abs(maps["first"]).max())


class Unknown(nn.Module):
    """A convolution, and a parameter in an op of four axes that need not be those of an image."""

    SHAPES = {  # noqa: RUF012 (a constant)
        "attention bias": (1, 2, 8, 8),
        "layer norm of images": (2, 8, 8),
        "scale of columns": (8,),
        "rows mixed": (8, 8),
        "einsum": (2, 2),
    }

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.other = nn.Parameter(torch.randn(self.SHAPES[kind]))

    def log_prob(self, x):
        h = self.conv(x)
        h = {
            "attention bias": lambda: (h + self.other).softmax(3),
            "layer norm of images": lambda: F.layer_norm(h, h.shape[1:], self.other),
            "scale of columns": lambda: h * self.other,
            "rows mixed": lambda: self.other @ h,
            "einsum": lambda: torch.einsum("nchw,cd->ndhw", h, self.other),
        }[self.kind]()
        return -(h - x).square().sum((1, 2, 3))


@pytest.mark.parametrize("kind", Unknown.SHAPES)
def test_what_need_not_lie_on_the_image_has_no_position(kind):
    request = request_of(Unknown(kind).double(), images(2, (2, 8, 8)))
    cotangent, inner = cotangent_of(request, "grad_norm")
    found = position_map(request, cotangent, gradient_features(SKETCH))
    np.testing.assert_allclose(found.unplaced, found.contributions[:, found.layers.index("other")], rtol=1e-8)
    np.testing.assert_allclose(found.maps.sum((1, 2)), inner, rtol=1e-8)


def test_nothing_is_left_behind():
    model = Convolutions().double()
    request = request_of(model, images(2))
    cotangent, _ = cotangent_of(request, "sketch")
    position_map(request, cotangent, gradient_features(SKETCH))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def log_prob(self, x):
        return -self.linear(x.flatten(1)).square().sum(1)


class Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Unseen(Convolutions):
    """A custom autograd.Function hands a parameter to the data."""

    def log_prob(self, x):
        h = F.conv2d(x, Copied.apply(self.first.weight), padding=1)
        return -self.second(h).square().flatten(1).sum(1)


class Written(Convolutions):
    def log_prob(self, x):
        return -self.first(x).mul_(self.second.weight.sum()).square().flatten(1).sum(1)


class Resampled(Convolutions):
    """The parameters are read by an op that torch cannot differentiate forwards."""

    def log_prob(self, x):
        grid = torch.zeros(len(x), 4, 4, 2, dtype=x.dtype)
        weight = F.grid_sample(self.first.weight[:1], grid[:1], align_corners=False).mean()
        return -self.second(self.first(x) * weight).square().flatten(1).sum(1)


class Hungry(Convolutions):
    """Runs out of memory, as torch says it, in the pass that follows the forward derivative."""

    def log_prob(self, x):
        if torch.autograd.forward_ad._current_level >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return -self.second(self.first(x)).square().flatten(1).sum(1)


def test_running_out_of_memory_is_no_missing_derivative():
    request = request_of(Hungry().double(), images(2))
    cotangent, _ = cotangent_of(request, "sketch")
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 2\.00 GiB"):
        position_map(request, cotangent, gradient_features(SKETCH))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Resampled, r"no forward derivative: .*grid_sampler_2d.*method 'contrast'"),
        (Flat, r"no layer of Flat has an output .* on a grid that divides the image of 4x8.*method 'contrast'"),
        (Unseen, r"add up to .*, the score's gradient to .*past torch's functions"),
        (Written, r"mul_ writes parameters into data.*method 'contrast'"),
    ],
)
def test_models_without_a_map_are_refused(kind, message):
    request = request_of(kind().double(), images(2))
    cotangent, _ = cotangent_of(request, "sketch")
    with pytest.raises(NoPositionsError, match=message):
        position_map(request, cotangent, gradient_features(SKETCH))


def test_a_map_with_a_missing_part_is_refused_in_single_precision_too():
    request = request_of(Unseen(), images(2).astype(np.float32))
    cotangent, _ = cotangent_of(request, "sketch")
    with pytest.raises(NoPositionsError, match="past torch's functions"):
        position_map(request, cotangent, gradient_features(SKETCH))


def test_samples_and_scores_without_a_map_are_refused():
    request = request_of(Convolutions().double(), images(2))
    with pytest.raises(NoPositionsError, match="reads no parameter gradient"):
        position_map(request, {"log_p": np.ones((2, 1))}, gradient_features(SKETCH))
    rows = request_of(Convolutions().double(), np.zeros((2, 3)))
    with pytest.raises(NoPositionsError, match=r"needs images \(n, C, H, W\)"):
        position_map(rows, {"sketch": np.ones((2, 1, 24))}, gradient_features(SKETCH))
