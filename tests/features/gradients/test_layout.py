"""Finding the batch in a tensor by the support of each sample's gradient."""

from __future__ import annotations

import pytest
import torch
from gradient_reference import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from fisherscope.features.gradients.layout import BATCH_FIRST, Fold, Layout, Observation, infer_layout, support_of


def observe(layout: Layout, n: int, shape: tuple[int, ...], density: float = 1.0) -> Observation:
    """The observation of a tensor that really lies on ``layout``."""
    full = layout.shape_for(torch.Size(shape), n)
    labels = layout.labels(n, torch.device("cpu")).view([-1 if d == layout.axis else 1 for d in range(len(full))])
    support = []
    for sample in range(n):
        generator = torch.Generator().manual_seed(sample)
        values = torch.randn(full, generator=generator) * (torch.rand(full, generator=generator) < density)
        support.append(support_of(torch.where(labels == sample, values, 0.0)))
    return Observation(n, full, support)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
    outer=st.integers(1, 4),
    inner=st.integers(1, 4),
)
def test_the_true_layout_is_found(shape, data, outer, inner):
    layout = Layout(data.draw(st.integers(0, len(shape) - 1)), outer, inner)
    assert infer_layout([observe(layout, n, tuple(shape)) for n in (3, 2)]) == layout


def test_mixed_permuted_and_ambiguous_tensors_have_none():
    good = [observe(BATCH_FIRST, n, (1, 3)) for n in (3, 2)]
    assert infer_layout(good) == BATCH_FIRST
    mixed = [Observation(o.n, o.shape, [[m | True for m in marks] for marks in o.support]) for o in good]
    assert infer_layout(mixed) is None
    flipped = [Observation(o.n, o.shape, o.support[::-1]) for o in good]
    assert infer_layout(flipped) is None
    fixed = [Observation(n, torch.Size((3, 3)), good[0].support[:n]) for n in (3, 2)]
    assert infer_layout(fixed) is None


def test_a_dead_tensor_is_batch_first_or_unknown():
    dead = [Observation(n, torch.Size((n, 3)), [support_of(torch.zeros(n, 3))] * n) for n in (3, 2)]
    assert dead[0].dead and infer_layout(dead) == BATCH_FIRST
    folded = [Observation(n, torch.Size((4 * n, 3)), [support_of(torch.zeros(4 * n, 3))] * n) for n in (3, 2)]
    assert infer_layout(folded) is None


@pytest.mark.parametrize("layout", [Layout(0), Layout(1), Layout(1, 2, 3), Layout(2, 2, 1)])
@pytest.mark.parametrize("weight", [(), (5,), (4, 1), (4, 5), (1, 1, 5)])
def test_sums_go_to_the_right_sample(layout, weight):
    n, base = 6, torch.Size((3, 4, 5))
    if layout.outer * layout.inner * n not in (3, 4, 5):
        weight = tuple(1 if len(weight) - i == 3 - layout.axis else size for i, size in enumerate(weight))
    value = normal(*layout.shape_for(base, n))
    labels = layout.labels(n, value.device).view([-1 if d == layout.axis else 1 for d in range(3)])
    fold = Fold(n, 2, layout)
    expected = []
    for group in range(3):
        w = torch.zeros(weight, dtype=value.dtype, requires_grad=True)
        masked = torch.where(labels // 2 == group, value, 0.0)
        expected.append(torch.autograd.grad((w.expand(value.shape) * masked).sum(), w)[0])
    torch.testing.assert_close(fold.sum_to(value, weight), torch.stack(expected))
