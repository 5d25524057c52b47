"""The bound on the number of smooth images, against counting all images of a tiny shape."""

import itertools
import math

import numpy as np
import pytest

from fisherscope.data import load_samples
from fisherscope.pipeline.reproduce.image_statistics import total_variation
from fisherscope.pipeline.reproduce.total_variation import log2_share


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 3), 4), ((1, 3, 3), 3), ((2, 2, 2), 3), ((1, 1, 6), 4)])
def test_no_image_is_missed(shape, levels):
    """Among all images of a shape, at most the bound has each total variation, and the bound is no trifle."""
    images = np.array(list(itertools.product(range(levels), repeat=math.prod(shape))), np.uint8).reshape(-1, *shape)
    found = total_variation(images)
    for t in range(int(found.max()) + 1):
        exact = math.log2((found <= t).mean())
        assert exact <= log2_share(t, shape, levels) + 1e-9
    constant = math.log2((found == 0).mean())
    # constant images are counted exactly where channels are: the sum then holds no others
    assert log2_share(0, shape, levels) == pytest.approx(constant, abs=0.01)
    assert log2_share(found.max(), shape, levels) == 0


def test_a_chain_is_bounded_by_the_simplex():
    """One row of D pixels: all differences with sum |d| <= t fill a volume of (2 t)^(D - 1) / (D - 1)!."""
    dims, t = 200, 2000.0
    simplex = (dims - 1) * math.log2(2 * t / 256) - math.lgamma(dims) / math.log(2)
    # Chernoff's bound loses the factor of Stirling's formula, sqrt(2 pi D), and levels are not continuous.
    assert log2_share(t, (1, 1, dims)) == pytest.approx(simplex, abs=40)
    assert log2_share(t, (1, 1, dims)) < log2_share(1.1 * t, (1, 1, dims))


def test_the_numbers(tiny):
    written = tiny("figure-total-variation", {"in_dist": ("digits", "faces", "nonfaces")})
    assert written["figures"] == ["grey-1x8x8", "grey-1x25x25"]
    for entry in written["results"]["sets"]:
        x = load_samples(entry["set"], limit=40).x.astype(int)
        pairs = np.abs(np.diff(x, axis=2)).sum((1, 2, 3)) + np.abs(np.diff(x, axis=3)).sum((1, 2, 3))
        height, width = x.shape[2:]
        count = height * (width - 1) + width * (height - 1)
        for part, quantile in (("half", 0.5), ("95 %", 0.95), ("all", 1.0)):
            bound = entry["bounds"][part]
            t = np.quantile(pairs, quantile)
            assert bound["total_variation"] == pytest.approx(t / count)
            assert bound["log2_share"] == pytest.approx(log2_share(t, x.shape[1:]))
            assert bound["bits_per_dim"] == pytest.approx(8 + bound["log2_share"] / x[0].size)
    curve = written["results"]["figures"][written["figures"][0]]["curve"]
    assert curve["log2_share"] == sorted(curve["log2_share"]) and curve["log2_share"][-1] == 0
