"""Projections of a convolution's gradient by either way equal those of the gradient itself, in float64."""

from __future__ import annotations

import pytest
import torch
from gradient_reference import normal

from fisherscope.features.gradients import conv_form, kernels
from fisherscope.features.gradients.conv_form import ConvForm
from fisherscope.features.gradients.geometry import Geometry


@pytest.mark.parametrize("left_first", [True, False])
@pytest.mark.parametrize("kernel", [(3,), (2, 3), (3, 1, 2)])
def test_both_ways_of_a_projection(monkeypatch, left_first, kernel):
    for name in ("MANY_CHANNELS", "MANY_POSITIONS"):
        monkeypatch.setattr(conv_form, name, 1 if left_first else 10**6)
    ones = (1,) * len(kernel)
    padding = tuple(k // 2 for k in kernel)
    geometry = Geometry(torch.Size((5, 4, *kernel)), ones, padding, ones, 1)
    sizes = (6, 5, 4)[: len(kernel)]
    out = [n + 2 * p - k + 1 for n, p, k in zip(sizes, padding, kernel, strict=True)]
    form = ConvForm(normal(6, 4, *sizes), normal(6, 5, *out, seed=1), geometry, 3, inputs_first=False)
    left, right = normal(2, 5, seed=2), normal(3, geometry.weight[1:].numel(), seed=3)
    expected = left @ form.dense().flatten(2) @ right.mT
    assert expected.shape == (3, 2, 3)
    torch.testing.assert_close(form.project(left, right), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(form.project(left, None), left @ form.dense().flatten(2), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(form.project(None, right), form.dense().flatten(2) @ right.mT, rtol=1e-11, atol=1e-11)


def test_inputs_of_many_channels_and_positions_are_not_filtered(monkeypatch):
    served = []
    exchanged = kernels.exchanged_gradient
    monkeypatch.setattr(kernels, "exchanged_gradient", lambda *given: served.append(given[2]) or exchanged(*given))
    for channels, size in ((64, 16), (63, 16), (64, 15)):
        geometry = Geometry(torch.Size((3, channels, 3, 3)), (1, 1), (1, 1), (1, 1), 1)
        x, g = normal(2, channels, size, size), normal(2, 3, size, size, seed=1)
        form = ConvForm(x, g, geometry, 2, inputs_first=False)
        form.project(normal(2, 3, seed=2), normal(3, channels * 9, seed=3))
    assert [geometry.weight for geometry in served] == [(2, 64, 3, 3)]
