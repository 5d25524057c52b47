"""Restoration from noise with predictors that know the answer, and SSIM against scikit-image."""

import numpy as np
import pytest
import torch

from fisherscope.core.keys import sample_keys
from fisherscope.models.denoising import Denoiser
from fisherscope.models.noise import normal_noise
from fisherscope.models.reconstruction import restoration_errors, restoration_grid, restoration_starts, ssim
from fisherscope.models.schedule import make_schedule

SHAPE = (1, 12, 13)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
KEYS = sample_keys(IMAGES)
X = torch.from_numpy(IMAGES).double()
SCHEDULE = make_schedule("linear", 1000)


def knowing(images):
    """A predictor that believes every noisy image to come from ``images``."""

    def predict(noisy, t):
        abar = torch.from_numpy(SCHEDULE.abar).to(noisy)[t.long()].reshape(-1, 1, 1, 1)
        return (noisy - abar.sqrt() * images) / (1 - abar).sqrt()

    return Denoiser(predict, SCHEDULE, SHAPE)


def test_the_grid_and_its_starts():
    assert restoration_grid(SCHEDULE) == tuple(range(50, 1001, 50))
    assert restoration_starts(SCHEDULE) == tuple(range(50, 1000, 100))
    assert restoration_grid(make_schedule("linear", 7)) == tuple(range(1, 8))


def test_a_model_that_knows_the_image_restores_it():
    errors = restoration_errors(knowing(X / 127.5 - 1), X, KEYS, 0)
    assert errors.shape == (3, 20) and errors.abs().max() < 1e-12


def test_a_model_that_knows_another_image_restores_that_one():
    other = torch.full((3, *SHAPE), 0.25, dtype=torch.float64)
    errors = restoration_errors(knowing(other), X, KEYS, 0)
    v, x = X / 127.5 - 1, X / 255
    want = (v - 0.25).square().flatten(1).mean(1)
    torch.testing.assert_close(errors[:, :10], want[:, None].expand(3, 10), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        errors[:, 10:], (1 - ssim((other + 1) / 2, x))[:, None].expand(3, 10), rtol=1e-9, atol=1e-12
    )


def test_no_noise_removed_is_the_noise_left_in():
    # A predictor of zeros takes x_t / sqrt(abar) for the image, clamped to the range.
    denoiser = Denoiser(lambda noisy, t: torch.zeros_like(noisy), SCHEDULE, SHAPE)
    errors = restoration_errors(denoiser, X, KEYS, 9)
    v, abar = X / 127.5 - 1, SCHEDULE.abar[50]
    eps = normal_noise(KEYS, SHAPE, seed=9, stream=denoiser.stream(0, 50), like=X)
    restored = ((abar**0.5 * v + (1 - abar) ** 0.5 * eps) / abar**0.5).clamp(-1, 1)
    torch.testing.assert_close(errors[:, 0], (restored - v).square().flatten(1).mean(1))


@pytest.mark.parametrize("shape", [(1, 12, 13), (3, 32, 32)])
def test_ssim_is_scikit_images(shape):
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 1, (4, *shape))
    second = np.clip(first + 0.3 * rng.normal(size=first.shape), 0, 1)
    got = ssim(torch.from_numpy(first), torch.from_numpy(second))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    want = [metrics.structural_similarity(a, b, channel_axis=0, **options) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_ssim_of_images_smaller_than_its_window():
    image = torch.rand(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(image, image), torch.ones(2, dtype=torch.float64))
    assert (ssim(image, 1 - image) < 0).all()
