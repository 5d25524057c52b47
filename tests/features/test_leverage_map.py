"""Leverage of what convolutions read, against the same by loops over positions."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fisherscope.core.errors import DataError, ModelError
from fisherscope.features.extractors import Request
from fisherscope.features.leverage_map import DAMPING, LeverageMap


class Convolutions(nn.Module):
    """A grouped, dilated, strided convolution and one with 'same' padding; two rows a sample run through the second."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 4, 3, padding=(2, 1), dilation=(2, 1), stride=(1, 2), groups=2)
        self.weight = nn.Parameter(torch.randn(3, 2, 1, 3))

    def log_prob(self, x):
        pair = torch.stack([x, -2 * x.flip(3)], 1).flatten(0, 1)
        second = F.conv2d(input=pair, weight=self.weight, padding="same")
        return -self.first(x).square().flatten(1).sum(1) - second.square().reshape(len(x), -1).sum(1)


def request_of(x, module=None):
    module = (module or Convolutions()).double().eval()
    return Request(module, None, x, np.arange(len(x), dtype=np.uint64))


def images(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2, 6, 8))


def patch(x, row, column, kernel, dilation, stride, before):
    """Entries (C, k, k) that a kernel reads at a position; zero outside the image."""
    out = np.zeros((len(x), *kernel))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            r, c = row * stride[0] + i * dilation[0] - before[0], column * stride[1] + j * dilation[1] - before[1]
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                out[:, i, j] = x[:, r, c]
    return out


def by_hand(reference, x):
    """The map of one image, convolution by convolution and position by position."""
    layers = [
        ((6, 4), (3, 3), (2, 1), (1, 2), (2, 1), [slice(0, 1), slice(1, 2)], lambda v: [v]),
        ((6, 8), (1, 3), (1, 1), (1, 1), (0, 1), [slice(0, 2)], lambda v: [v, -2 * v[:, :, ::-1]]),
    ]
    maps = []
    for grid, kernel, dilation, stride, before, groups, rows in layers:
        places = [(r, c) for r in range(grid[0]) for c in range(grid[1])]

        def read(image, group, rows=rows, how=(kernel, dilation, stride, before), places=places):
            return np.array([[patch(row[group], *p, *how).ravel() for p in places] for row in rows(image)])

        known = [
            np.concatenate([read(image, g).reshape(len(places) * len(rows(image)), -1) for image in reference])
            for g in groups
        ]
        covariances = [np.cov(u.T, bias=True) for u in known]
        damping = DAMPING * np.mean([np.diag(c).mean() for c in covariances])
        total = 0.0
        for group, u, covariance in zip(groups, known, covariances, strict=True):
            off = read(x, group) - u.mean(0)
            total = total + ((off @ np.linalg.inv(covariance + damping * np.eye(len(covariance)))) * off).sum(2)
        maps.append(np.log(total).mean(0).reshape(grid))
    grown = [
        F.interpolate(torch.from_numpy(m)[None, None], size=(6, 8), mode="bilinear", align_corners=False) for m in maps
    ]
    return torch.cat(grown).mean((0, 1)).numpy()


def test_it_is_the_mean_log_leverage_of_what_the_kernels_read():
    reference, x = images(5), images(3, seed=1)
    found = LeverageMap([request_of(reference[:2]), request_of(reference[2:])]).maps(request_of(x))
    np.testing.assert_allclose(found, [by_hand(reference, image) for image in x], rtol=1e-4)  # inverted in float32
    np.testing.assert_array_equal(LeverageMap([request_of(reference)]).maps(request_of(x[1:2]))[0], found[1])


def test_it_finds_a_patch_that_the_reference_has_not():
    x = images(4, seed=1)
    x[:, :, 2:4, 3:6] += 6
    maps = LeverageMap([request_of(images(20))]).maps(request_of(x))
    assert (maps[:, 2:4, 3:6].mean((1, 2)) > maps[:, :, 7].mean(1) + 1).all()


class Branching(nn.Module):
    """Other convolutions for other samples, or none at all."""

    def __init__(self, always=False):
        super().__init__()
        self.convolution, self.always = nn.Conv2d(2, 1, 1), always

    def log_prob(self, x):
        h = self.convolution(x) if self.always or x.mean() > 0 else x * self.convolution.bias
        return -h.square().flatten(1).sum(1)


def test_models_and_samples_without_such_a_map_are_refused():
    with pytest.raises(ModelError, match="through no two-dimensional convolution"):
        LeverageMap([request_of(-np.ones((2, 2, 6, 8)), Branching())])
    known = LeverageMap([request_of(images(3), Branching(always=True))])
    with pytest.raises(ModelError, match="the same convolutions"):
        known.maps(request_of(images(1)))
    with pytest.raises(DataError, match="needs images"):
        known.maps(request_of(np.ones((2, 3))))
    with pytest.raises(DataError, match="none were given"):
        LeverageMap([])
    with pytest.raises(DataError, match="same patch everywhere"):
        LeverageMap([request_of(np.ones((2, 2, 6, 8)), Branching(always=True))])
