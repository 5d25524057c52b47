"""RGB and HSV: the map against colorsys, its determinant against autograd, the experiment against both by hand."""

import colorsys
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fisherscope.core.errors import DataError
from fisherscope.data import load_samples
from fisherscope.evaluation import split_in_dist
from fisherscope.models.base import load_model
from fisherscope.pipeline.reproduce.case import NothingLeftError
from fisherscope.pipeline.reproduce.hsv import hsv_log_prob, log_det, to_hsv, to_rgb


def colours(n=200):
    return torch.rand(n, 3, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_map_is_that_of_colorsys_and_invertible():
    rgb = colours()
    hsv = to_hsv(rgb)
    pixels = [colorsys.rgb_to_hsv(*pixel) for pixel in rgb.movedim(1, -1).reshape(-1, 3).tolist()]
    assert hsv.movedim(1, -1).reshape(-1, 3).numpy() == pytest.approx(np.array(pixels), abs=1e-12)
    assert to_rgb(hsv).numpy() == pytest.approx(rgb.numpy(), abs=1e-12)
    with pytest.raises(DataError, match="a colour is grey"):
        to_hsv(torch.full((1, 3, 1, 1), 0.5))


def test_the_determinant_is_that_of_the_jacobian():
    rgb = colours(50)

    def one(flat):
        return to_hsv(flat.reshape(1, 3, 2, 1)).flatten()

    direct = [torch.linalg.slogdet(torch.autograd.functional.jacobian(one, image.flatten()))[1] for image in rgb]
    assert log_det(to_hsv(rgb)).numpy() == pytest.approx(torch.stack(direct).numpy(), abs=1e-9)


def test_the_density_of_hsv_adds_up_to_one():
    """A model that is uniform over all images: in HSV its density is 6 V^2 S, whose integral over the cube is 1."""

    class Uniform(torch.nn.Linear):
        def log_prob(self, x):
            return torch.full((len(x),), -x[0].numel() * math.log(256.0)) + 0 * self.weight.sum()

    hsv = torch.rand(100_000, 3, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_p = hsv_log_prob(None)(Uniform(1, 1), hsv, 0, None)
    # levels are units of 1 / 256 of the cube's sides
    assert (log_p.double() + 3 * math.log(256)).exp().mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("family", ["glow", "vae"])
def test_the_numbers(tiny, models, family):
    grids = {"families": (family,), "in_dist": ("china-rgb",), "out_dist": ("china-rgb", "flower-rgb")}
    written = tiny("figure-rgb-hsv", grids)
    (found,) = written["results"]["models"]
    model = load_model(models / f"{family}-china-rgb")
    china = load_samples("china-rgb", limit=80, resize=(3, 8, 8))
    flower = load_samples("flower-rgb", limit=40, resize=(3, 8, 8))
    split = split_in_dist(len(china), 1, 0, clusters=china.clusters)
    bits = {}
    for samples in (china.select(split.test), flower):
        u = np.stack(
            [
                np.random.Generator(np.random.Philox(key=np.array([k, 0], dtype=np.uint64))).random((3, 8, 8))
                for k in samples.keys
            ]
        )
        v = (samples.x + u) / 256
        shift = -np.log2(6 * v.max(1) * (v.max(1) - v.min(1))).sum((1, 2)) / 192
        with torch.no_grad():
            log_p = model.log_prob(torch.from_numpy(samples.x), keys=samples.keys).double().numpy()
        rgb = -log_p / (192 * math.log(2))
        bits[samples.name] = np.stack([rgb, rgb + shift], axis=1)
    assert found["sets"].keys() == bits.keys()
    for name, direct in bits.items():
        order = np.argsort(direct[:, 0])
        said = np.array(found["sets"][name]["points"]["bits_per_dim"])
        assert said[np.argsort(said[:, 0])] == pytest.approx(direct[order], abs=1e-4)
        assert list(found["sets"][name]["bits_per_dim"].values()) == pytest.approx(direct.mean(0), abs=1e-4)
        change = written["results"]["change"]["sets"][name]
        assert change["mean"] == pytest.approx(np.diff(direct).mean(), abs=1e-4)
        scores = np.array(found["sets"][name]["points"]["score"])
        assert scores[:, 1] == pytest.approx(scores[:, 0], abs=0.01 * np.ptp(scores))
    assert found["log_norms_moved"] < 1e-2
    assert "unchanged by construction" in written["note"]
    assert "cannot move" in written["captions"][f"colour-{family}-china-rgb"]
    own, other = bits["china-rgb[test]"], bits["flower-rgb[test]"]
    labels = np.repeat([0, 1], [len(own), len(other)])
    direct = [roc_auc_score(labels, np.concatenate([own[:, i], other[:, i]])) for i in (0, 1)]
    assert found["auroc"]["flower-rgb[test]"]["likelihood"] == pytest.approx(direct)


def test_grey_images_have_no_colours(tiny):
    with pytest.raises(NothingLeftError, match="no model of colour images"):
        tiny("figure-rgb-hsv", {"families": ("vae",), "in_dist": ("digits", "faces")})
