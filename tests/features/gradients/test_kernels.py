"""Every convolution kernel that is offered for a shape gives the same squared norms, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gradient_reference import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from fisherscope.features.gradients import kernels
from fisherscope.features.gradients.geometry import Geometry


def reference(x, g, geometry, n_groups):
    """Per-group weight gradients by autograd."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(geometry.kernel) - 1]
    rows = []
    for a, b in zip(x.chunk(n_groups), g.chunk(n_groups), strict=True):
        w = torch.zeros(geometry.weight, dtype=x.dtype, requires_grad=True)
        y = convolve(a, w, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        rows.append(torch.autograd.grad(y, w, b)[0])
    return torch.stack(rows)


def problem(c_in, c_out, kernel, size, stride, padding, instances, n_groups):
    geometry = Geometry(torch.Size((c_out, c_in, *kernel)), (stride,) * 2, (padding,) * 2, (1, 1), 1)
    x = normal(instances * n_groups, c_in, size, size + 1)
    out = [(n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[2:], kernel, strict=True)]
    return x, normal(instances * n_groups, c_out, *out, seed=1), geometry


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    c_in=st.sampled_from([1, 3, 14, 16, 40]),
    c_out=st.sampled_from([1, 3, 14, 16, 40]),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3), (4, 4), (2, 2)]),
    size=st.sampled_from([4, 7]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    instances=st.integers(1, 3),
)
def test_all_kernels_agree_with_autograd(c_in, c_out, kernel, size, stride, padding, instances):
    padding = min(padding, *(k - 1 for k in kernel))
    x, g, geometry = problem(c_in, c_out, kernel, size, stride, padding, instances, 3)
    gradients = reference(x, g, geometry, 3)
    expected = gradients.flatten(1).square().sum(1)
    torch.testing.assert_close(kernels.weight_gradient(x, g, geometry, 3), gradients, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(kernels.squared_norm(x, g, geometry, 3), expected, rtol=1e-11, atol=0)
    offered = [kernels.grouped_norm, kernels.patches_norm, kernels.gram_norm, kernels.taps_norm]
    offered += [kernels.rows_norm] * (stride == 1)
    for kernel_norm in offered:
        torch.testing.assert_close(kernel_norm(x, g, 3, geometry), expected, rtol=1e-11, atol=0)


def test_taps_of_groups_whose_samples_cancel():
    x, g, geometry = problem(8, 8, (3, 3), 4, 1, 1, 2, 3)
    x, g = x.float(), g.float()
    x[3], g[3] = x[2], -g[2] * (1 + 1e-5)  # round-off of the Gram form is larger than what is left
    expected = reference(x.double(), g.double(), geometry, 3).flatten(1).square().sum(1).float()
    assert expected[1] < 1e-8 * expected[0]
    torch.testing.assert_close(kernels.taps_norm(x, g, 3, geometry), expected, rtol=1e-1, atol=0)


@pytest.mark.parametrize("c_in", [3, 15])
def test_chunks_do_not_change_the_result(monkeypatch, c_in):
    x, g, geometry = problem(c_in, 14, (3, 3), 9, 1, 1, 2, 6)
    assert kernels.choose(x, g, geometry, 6) is (kernels.patches_norm if c_in == 3 else kernels.rows_norm)
    whole = kernels.squared_norm(x, g, geometry, 6), kernels.weight_gradient(x, g, geometry, 6)
    for budgets in (kernels.CHUNK_BYTES, kernels.ROWS_CHUNK_BYTES):
        monkeypatch.setitem(budgets, "cpu", 1)
    torch.testing.assert_close(kernels.squared_norm(x, g, geometry, 6), whole[0], rtol=1e-14, atol=0)
    torch.testing.assert_close(kernels.weight_gradient(x, g, geometry, 6), whole[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("c_in", "c_out", "size", "instances", "expected"),
    [
        (128, 48, 4, 1, kernels.taps_norm),
        (128, 128, 4, 2, kernels.taps_norm),
        (36, 36, 5, 1, kernels.taps_norm),
        (10, 10, 2, 1, kernels.gram_norm),
        (64, 64, 14, 1, kernels.rows_norm),
        (64, 64, 20, 1, kernels.grouped_norm),
        (16, 16, 20, 1, kernels.grouped_norm),
        (64, 64, 8, 2, kernels.grouped_norm),
        (64, 24, 8, 1, kernels.rows_norm),
        (18, 48, 16, 1, kernels.rows_norm),
        (3, 48, 16, 1, kernels.patches_norm),
        (24, 48, 4, 5, kernels.patches_norm),
        (24, 24, 8, 5, kernels.grouped_norm),
    ],
)
def test_choice_depends_on_shapes_alone(c_in, c_out, size, instances, expected):
    x, g, geometry = problem(c_in, c_out, (3, 3), size, 1, 1, instances, 2)
    assert kernels.choose(x.float(), g.float(), geometry, 2) is expected
    assert kernels.choose(x, g, geometry, 2) is not kernels.grouped_norm


@pytest.mark.parametrize(
    ("c_in", "c_out", "kernel", "size", "expected"),
    [
        (64, 128, (4, 4), 8, kernels.taps_norm),
        (64, 64, (3, 3), 12, kernels.taps_norm),
        (32, 64, (4, 4), 16, kernels.taps_norm),
        (32, 64, (4, 4), 32, kernels.grouped_norm),
        (3, 32, (4, 4), 16, kernels.patches_norm),
    ],
)
def test_choice_for_strided_convolutions(c_in, c_out, kernel, size, expected):
    x, g, geometry = problem(c_in, c_out, kernel, size, 2, 1, 1, 2)
    assert kernels.choose(x.float(), g.float(), geometry, 2) is expected
