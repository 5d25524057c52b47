from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.models.base import load_model
from fisherscope.models.glow import Glow
from fisherscope.models.glow_layers import LUPermutation, PlainPermutation, squeeze, unsqueeze
from fisherscope.models.training import TrainingSet, TrainSettings, train


def perturbed(model: Glow, scale: float = 0.1) -> Glow:
    """Give every parameter a non-trivial value: fresh couplings are the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model


def images(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("permutation", ["plain", "lu"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 12), (1, 6, 2)])
def test_decode_inverts_encode(shape: tuple[int, int, int], permutation) -> None:
    model = perturbed(Glow(shape, steps=2, hidden=8, permutation=permutation).double())
    v = torch.rand(3, *shape, dtype=torch.float64) - 0.5
    latents, _ = model.encode(v)
    assert [tuple(z.shape[1:]) for z in latents] == model.latent_shapes
    assert sum(z[0].numel() for z in latents) == v[0].numel()
    assert torch.allclose(model.decode(latents), v, atol=1e-10, rtol=0)


@pytest.mark.parametrize("permutation", ["plain", "lu"])
def test_log_p_is_the_change_of_variables(permutation) -> None:
    model = perturbed(Glow((1, 4, 4), steps=2, hidden=8, permutation=permutation).double())
    x = images(2, (1, 4, 4))
    log_p = model.log_prob(x, seed=3)
    v = model.dequantise(x, seed=3)
    for i in range(2):

        def flat(w: Tensor) -> Tensor:
            return torch.cat([z.flatten() for z in model.encode(w.reshape(1, 1, 4, 4))[0]])

        z = flat(v[i])
        jacobian = torch.autograd.functional.jacobian(flat, v[i].flatten())
        expected = -0.5 * (z @ z + 16 * math.log(2 * math.pi)) + torch.linalg.slogdet(jacobian)[1]
        assert torch.allclose(log_p[i], expected - 16 * math.log(256), atol=1e-9)


def test_density_integrates_to_one() -> None:
    model = perturbed(Glow((1, 2, 2), steps=1, hidden=4).double(), 0.05)
    grid = torch.linspace(-6, 6, 25, dtype=torch.float64)
    v = torch.cartesian_prod(grid, grid, grid, grid).reshape(-1, 1, 2, 2)
    latents, log_det = model.encode(v)
    log_p = log_det - 0.5 * (latents[0].square() + math.log(2 * math.pi)).flatten(1).sum(1)
    assert log_p.exp().sum().item() * 0.5**4 == pytest.approx(1.0, abs=0.02)


def test_initialise_gives_unit_moments_after_every_actnorm() -> None:
    model = Glow((3, 8, 8), steps=3, hidden=8)
    x = images(64, (3, 8, 8))
    model.initialise(x, seed=5)
    seen = []
    for scale in model._scales():
        for step in scale._steps():
            step.actnorm.register_forward_hook(lambda m, a, out: seen.append(out[0]))
    model.log_prob(x, seed=5)
    assert len(seen) == 3 * len(model._scales())
    for y in seen:
        std, mean = torch.std_mean(y, dim=(0, 2, 3), correction=0)
        assert mean.abs().max() < 1e-4 and (std - 1).abs().max() < 1e-3


@pytest.mark.parametrize("kind", [PlainPermutation, LUPermutation])
def test_permutation_starts_as_a_rotation_with_its_log_det(kind) -> None:
    layer = kind(12, torch.Generator().manual_seed(0)).double()
    matrix = layer.matrix()
    assert torch.allclose(matrix @ matrix.T, torch.eye(12, dtype=torch.float64), atol=1e-5)
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.3
    assert torch.allclose(layer.log_abs_det(), torch.linalg.slogdet(layer.matrix())[1], atol=1e-10)


def test_dequantisation_covers_exactly_the_pixel() -> None:
    model = Glow((1, 4, 4), steps=1, hidden=4).double()
    x = images(5, (1, 4, 4))
    offset = (model.dequantise(x, seed=1) + 0.5) * 256 - x
    assert offset.min() >= 0 and offset.max() < 1


def test_untrained_likelihood_is_near_that_of_the_prior() -> None:
    # Scaled pixels lie within [-0.5, 0.5) of a fresh, orthogonal flow whose scales shrink by sigmoid(2) only.
    model = Glow((1, 8, 8), levels=1, steps=1, hidden=4).double()
    bits = -model.log_prob(images(4, (1, 8, 8))) / (64 * math.log(2))
    assert torch.all((bits > 8) & (bits < 10))


def test_temperature_zero_is_the_mode_and_draws_depend_on_the_seed() -> None:
    model = perturbed(Glow((3, 8, 8), steps=2, hidden=8))
    cold = model.sample(3, temperature=0.0)
    assert torch.equal(cold[0], cold[1])
    assert not torch.equal(model.sample(2, seed=0), model.sample(2, seed=1))
    assert torch.equal(model.sample(2, seed=0), model.sample(5, seed=0)[:2])


def test_squeeze_keeps_each_square_together() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert squeeze(x)[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert torch.equal(unsqueeze(squeeze(x)), x)


def test_the_paper_configuration_constructs() -> None:
    config = {"levels": 3, "steps": 32, "hidden": 512}
    model = Glow((3, 32, 32), **config)
    count = sum(p.numel() for p in model.parameters())
    assert len(model._scales()) == 3 and all(len(s.steps) == 32 for s in model._scales())
    assert 35e6 < count < 50e6
    assert model.config() | config == model.config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_shape": (1, 7, 8)}, "needs even height and width"),
        ({"data_shape": (8, 8)}, "expected \\(channels, height, width\\)"),
        ({"data_shape": (1, 28, 28), "levels": 3}, "allow 1 to 2"),
        ({"data_shape": (1, 8, 8), "steps": 0}, "at least 1"),
        ({"data_shape": (1, 8, 8), "permutation": "qr"}, "expected 'plain' or 'lu'"),
    ],
)
def test_bad_settings(arguments, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Glow(**arguments)


def test_wrong_shape_and_keys() -> None:
    model = Glow((1, 8, 8), steps=1, hidden=4)
    with pytest.raises(ModelError, match=r"expects \(n, 1, 8, 8\)"):
        model.log_prob(images(2, (3, 8, 8)))
    with pytest.raises(ModelError, match="1 keys were given for 2"):
        model.log_prob(images(2, (1, 8, 8)), keys=np.zeros(1, dtype=np.uint64))


@pytest.mark.slow
def test_the_paper_configuration_trains_a_step_and_saves(tmp_path: Path) -> None:
    x = images(24, (3, 32, 32)).numpy()
    model = Glow((3, 32, 32), levels=3, steps=32, hidden=512)
    settings = TrainSettings(steps=1, batch_size=4, validation_fraction=0.1)
    trained = train(model, TrainingSet(x, sample_keys(x), "noise"), settings, tmp_path / "glow")
    loaded = load_model(tmp_path / "glow")
    assert torch.equal(loaded.log_prob(torch.from_numpy(x[:2])), trained.log_prob(torch.from_numpy(x[:2])))
