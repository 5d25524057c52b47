"""The picture of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fisherscope.core.errors import DataError
from fisherscope.report.theme import theme

Metrics = Sequence[Mapping[str, float]]

_TRAINING = {"color": "#7FA8C9", "linewidth": 0.9, "label": "training batch"}
_VALIDATION = {"color": "#004488", "marker": "o", "markersize": 3, "label": "validation"}


def training_curve(metrics: Metrics, *, own_loss: bool = False) -> Figure:
    """Draw what a training logged against its steps.

    Args:
        metrics: lines with step, bits_per_dim and, where it was measured, validation.
        own_loss: whether the batches were measured in another loss than the bits/dim of the validation, as those of a
            diffusion model are; it then has a panel of its own.

    Raises:
        DataError: there are no lines.
    """
    if not metrics:
        raise DataError("the training has logged nothing yet; there is no curve to draw")
    batches = [(line["step"], line["bits_per_dim"]) for line in metrics]
    validations = [(line["step"], line["validation"]) for line in metrics if "validation" in line]
    with theme():
        figure = Figure(figsize=(4.6, 4.2 if own_loss else 2.9), layout="constrained")
        panels = figure.subplots(2 if own_loss else 1, sharex=True, squeeze=False)[:, 0]
        panels[0].plot(*zip(*batches, strict=True), **_TRAINING)
        if validations:
            panels[-1].plot(*zip(*validations, strict=True), **_VALIDATION)
        panels[0].set_ylabel("training loss, bits/dim" if own_loss else "bits/dim")
        panels[-1].set_ylabel("bits/dim")
        panels[-1].set_xlabel("step")
        for axes in panels:
            _leave_the_start_out(axes)
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def _leave_the_start_out(axes: Axes) -> None:
    """End the vertical axis where the first tenth of the steps ends, where losses are many times what follows."""
    lines = [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.get_lines()]
    last = max((x.max() for x, _ in lines), default=0)
    late = [y[x >= 0.1 * last] for x, y in lines]
    if late:
        low, high = min(y.min() for y in late), max(y.max() for y in late)
        margin = 0.05 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
