"""From a named set to a trained, saved model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fisherscope.core.errors import DataError
from fisherscope.data import Samples
from fisherscope.models.base import GenerativeModel, make_model
from fisherscope.models.training import Progress, TrainingSet, TrainSettings, train


def train_on(
    family: str,
    samples: Samples,
    settings: TrainSettings,
    folder: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
    command: str | None = None,
    report: Callable[[Progress], None] | None = None,
) -> GenerativeModel:
    """Train a model of a family on samples and save it.

    Args:
        family: name of the model family, e.g. ``glow``.
        samples: what to train on; images (N, C, H, W), uint8.
        settings: budget and optimiser.
        folder: where the model and its checkpoints go.
        config: arguments of the family's constructor beside ``data_shape`` and ``init_seed``.
        resume: continue an interrupted training of that folder.
        command: command line for the model card.
        report: called after every step.

    Returns:
        The trained model in eval mode.
    """
    if samples.x.dtype.kind == "f" and (samples.x.min() < 0 or samples.x.max() > 255 or samples.x.max() <= 1):
        raise DataError(f"{samples.name} holds floats outside [0, 255] or all within [0, 1]; give 8-bit levels")
    model = make_model(family, data_shape=samples.shape, init_seed=settings.seed, **(config or {}))
    data = TrainingSet(samples.x, samples.keys, samples.name)
    return train(model, data, settings, folder, resume=resume, command=command, report=report)
