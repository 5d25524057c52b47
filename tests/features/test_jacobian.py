"""The spectrum of a flow's generator against the Jacobian of its inverse, and the dimension counted from it."""

import numpy as np
import pytest
import torch

from fisherscope.core.errors import DataError, ModelError
from fisherscope.core.keys import sample_keys
from fisherscope.core.table import Card, FeatureTable
from fisherscope.detectors import make_detector
from fisherscope.detectors.intrinsic_dimension import local_pca_dimension, matching_threshold
from fisherscope.features.extractors import Request
from fisherscope.features.jacobian import JacobianSpectrum
from fisherscope.models.base import make_model

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 4, 4), dtype=np.uint8)
KEYS = sample_keys(IMAGES)


def moved(family, **config):
    model = make_model(family, **config).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model


def test_glow_against_the_jacobian_of_its_decoder():
    glow = moved("glow", data_shape=(1, 4, 4), levels=2, steps=1, hidden=4)
    block = JacobianSpectrum().extract(Request(glow, None, IMAGES, KEYS, 2, seed=3))["jacobian_spectrum"]
    assert block.shape == (2, 2, 16)
    points = glow.dequantise(torch.from_numpy(IMAGES), seed=3, keys=KEYS)
    sizes = [int(np.prod(shape)) for shape in glow.latent_shapes]

    def generate(z):
        parts = z.split(sizes)
        return glow.decode([p.reshape(1, *s) for p, s in zip(parts, glow.latent_shapes, strict=True)]).flatten()

    for point, spectrum in zip(points, block.reshape(4, 16), strict=True):
        z = glow.flow_latents(point[None])[0].detach()
        jacobian = torch.autograd.functional.jacobian(generate, z)
        np.testing.assert_allclose(np.exp(spectrum), torch.linalg.svdvals(jacobian), rtol=1e-8)
    assert all(p.grad is None for p in glow.parameters())


def test_the_spectrum_of_a_tabular_flow_sums_to_its_determinant():
    pytest.importorskip("zuko")
    flow = moved("tabular", data_shape=(3,), transforms=1, hidden=(8,))
    x = np.random.default_rng(0).normal(size=(5, 3))
    block = JacobianSpectrum().extract(Request(flow, None, x, sample_keys(x)))["jacobian_spectrum"]
    log_det = flow.statistics(torch.from_numpy(x))[:, 1].detach()
    np.testing.assert_allclose(block.sum((1, 2)), -log_det, rtol=1e-9)


def test_other_models_are_refused():
    with pytest.raises(ModelError, match="Linear is no normalising flow"):
        JacobianSpectrum().extract(Request(torch.nn.Linear(2, 2), None, IMAGES, KEYS))


def test_local_pca_counts_the_dimensions_of_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 20))
    assert local_pca_dimension(plane) == 3.0
    assert local_pca_dimension(plane[:, :3] * [1, 1, 0] + [0, 0, 5]) == 2.0
    assert local_pca_dimension(rng.normal(size=(8, 20))) == 6.0  # 7 neighbours span 6 directions
    with pytest.raises(DataError, match="needs samples that differ"):
        local_pca_dimension(np.ones((20, 4)))


def test_the_threshold_gives_the_wanted_mean_dimension():
    spectra = np.random.default_rng(0).normal(size=(40, 10))
    for wanted in (0.5, 3.0, 7.25):
        assert (spectra > matching_threshold(spectra, wanted)).sum(1).mean() == pytest.approx(wanted)


def test_dual_threshold_by_hand():
    rng = np.random.default_rng(0)
    plane = (rng.normal(size=(20, 2)) @ rng.normal(size=(2, 4))).reshape(20, 1, 4)
    spectrum = np.tile([3.0, 2.0, -5.0, -6.0], (20, 1, 1))  # two directions, as local PCA finds
    log_p = -np.arange(20.0)[:, None]

    def table(log_p, spectrum, pixels):
        n = len(log_p)
        ids, keys = tuple((str(i),) for i in range(n)), np.arange(n, dtype=np.uint64)[:, None]
        blocks = {"log_p": log_p, "jacobian_spectrum": spectrum, "pixels": pixels}
        return FeatureTable(blocks, {}, ids, keys, Card("m", "m", "d", "d", 1, 0, "float64"))

    detector = make_detector("local-intrinsic-dimension").fit(table(log_p, spectrum, plane))
    assert -5 < detector.threshold_ < 2
    new = np.array([[[3.0, 2.0, -5, -6]], [[3.0, -4.0, -5, -6]], [[3.0, 2.0, 1.0, -6]]])
    scores = detector.score(table(np.array([[-9.5], [5.0], [-30.0]]), new, plane[:3]))
    # likelihood ranks 10 of 20 from below; dimension 1 below all (which are 2); likelihood 11 below all, half of which
    # lie within 9
    np.testing.assert_allclose(scores, [-np.log(11 / 21), -np.log(1 / 21 / 2), -np.log(1 / 21 / (1 + 11 / 9))])
    farther = detector.score(table(np.array([[-31.0], [-1e9]]), new[[0, 0]], plane[:2]))
    assert scores[2] < farther[0] < farther[1]
