from __future__ import annotations

import pytest

from fisherscope.core.errors import DataError
from fisherscope.report.training import training_curve

METRICS = [
    {"step": step, "bits_per_dim": 3 + 300 / step**2, **({"validation": 3 + 10 / step} if step % 20 == 0 else {})}
    for step in range(10, 201, 10)
]


def test_one_panel_shows_batches_and_validation():
    (axes,) = training_curve(METRICS).axes
    batches, validation = axes.get_lines()
    assert list(batches.get_xdata()) == list(range(10, 201, 10))
    assert list(validation.get_ydata()) == [line["validation"] for line in METRICS if "validation" in line]
    assert axes.get_ylim()[1] < 5  # the first steps, at 6 bits/dim, are left out
    assert axes.get_ylim()[0] < 3.01


def test_another_loss_has_its_own_panel():
    upper, lower = training_curve(METRICS, own_loss=True).axes
    assert len(upper.get_lines()) == len(lower.get_lines()) == 1
    assert "training loss" in upper.get_ylabel() and lower.get_ylabel() == "bits/dim"


def test_short_trainings():
    assert len(training_curve(METRICS[:1]).axes[0].get_lines()) == 1
    with pytest.raises(DataError, match="logged nothing"):
        training_curve([])
