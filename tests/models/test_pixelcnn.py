from __future__ import annotations

import numpy as np
import pytest
import torch

from fisherscope.core.errors import SettingError
from fisherscope.models.noise import uniform_noise
from fisherscope.models.pixelcnn import CausalConv, PixelCNN


def features(m: PixelCNN, x: torch.Tensor) -> torch.Tensor:
    v = x / 127.5 - 1
    return m._along(v, m._above(v))


def model(shape: tuple[int, int, int] = (1, 2, 2), scale: float = 0.3, **settings: object) -> PixelCNN:
    made = PixelCNN(shape, hidden=6, layers=2, **settings).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p += scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return made


@pytest.mark.parametrize("output", ["softmax", "mixture"])
def test_two_pixels_sum_to_one_over_all_images(output) -> None:
    m = model((1, 1, 2), output=output)
    levels = torch.arange(256, dtype=torch.uint8)
    every = torch.cartesian_prod(levels, levels).reshape(-1, 1, 1, 2)
    total = sum(m.log_prob(part).exp().sum().item() for part in every.split(8192))
    assert total == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("kernel", "strict", "seen"),
    [
        ((2, 3), True, {(r, c) for r in (1, 2) for c in (1, 2, 3)}),
        ((2, 3), False, {(r, c) for r in (2, 3) for c in (1, 2, 3)}),
        ((1, 2), True, {(3, 0), (3, 1)}),
        ((1, 3), False, {(3, 0), (3, 1), (3, 2)}),
    ],
)
def test_what_a_causal_convolution_sees(kernel, strict: bool, seen) -> None:
    layer = CausalConv(1, 1, kernel, strict=strict)
    x = torch.zeros(1, 1, 5, 5, requires_grad=True)
    out = layer(x)
    assert out.shape == x.shape
    (gradient,) = torch.autograd.grad(out[0, 0, 3, 2], x)
    assert {tuple(i) for i in gradient[0, 0].nonzero().tolist()} == seen


def test_a_pixel_sees_everything_before_it_within_reach() -> None:
    m = PixelCNN((1, 9, 9), hidden=6, layers=5).double()
    x = torch.rand(1, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(features(m, x)[0, :, 4, 4].sum(), x)
    seen = gradient[0, 0] != 0
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[:4] = True
    expected[4, :4] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("output", ["softmax", "mixture"])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_follow_the_model(output, channels: int) -> None:
    m = model((channels, 1, 1), output=output)
    drawn = m.sample(4000, seed=3)[:, :, 0, 0].numpy().astype(float)
    levels = torch.arange(256, dtype=torch.uint8)
    first = torch.zeros(256, channels, 1, 1, dtype=torch.uint8)
    first[:, 0, 0, 0] = levels
    p = m.conditionals(first)[:, 0, 0, 0].exp().detach().numpy()
    cdf = np.cumsum(p)
    empirical = np.searchsorted(np.sort(drawn[:, 0]), np.arange(256), side="right") / len(drawn)
    assert np.abs(empirical - cdf).max() < 1.63 / np.sqrt(len(drawn))  # Kolmogorov-Smirnov at 1 %


def test_samples_of_later_channels_and_pixels_follow_their_conditionals() -> None:
    m = model((3, 2, 2), output="mixture")
    x = m.sample(1500, seed=0)
    # log P of draws from the model itself averages to minus its entropy, which other draws of it must reproduce
    own, other = m.conditionals(x).detach(), m.conditionals(m.sample(1500, seed=1)).detach()
    error = (own.var(0) / 1500 + other.var(0) / 1500).sqrt()
    assert ((own.mean(0) - other.mean(0)).abs() < 4.5 * error).all()
    # The score of the log-likelihood has mean zero under the model: true only if sampling and density agree.
    model_parameters = list(m.head.parameters())
    scores = [
        torch.cat([g.flatten() for g in torch.autograd.grad(m.log_prob(part).sum(), model_parameters)])
        for part in x.split(50)
    ]
    stacked = torch.stack(scores)
    z = stacked.mean(0) / (stacked.std(0) / len(scores) ** 0.5 + 1e-12)
    assert z.square().mean() < 1.5


def test_cropping_to_the_reach_changes_no_sample() -> None:
    m = model((1, 12, 3), output="softmax")
    short = m.sample(2, seed=0)
    full = torch.zeros(2, 1, 12, 3, dtype=torch.float64)
    u = uniform_noise(np.arange(2, dtype=np.uint64), (12, 3, 2), seed=0, like=full)
    for r in range(12):
        for c in range(3):
            full[:, :, r, c] = m.head.draw(features(m, full)[:, :, r : r + 1, c : c + 1], u[:, r, c]).detach()
    assert torch.equal(short, full.to(torch.uint8))


@pytest.mark.parametrize(
    "arguments", [{"data_shape": (4, 4)}, {"hidden": 0}, {"output": "normal"}, {"components": 0}, {"layers": 0}]
)
def test_bad_settings(arguments: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        PixelCNN(**arguments)  # type: ignore[arg-type]
