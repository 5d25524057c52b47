"""From a named set to a trained, saved model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from fisherscope.config import TrainConfig, TrainingTable
from fisherscope.core.errors import DataError
from fisherscope.data import Samples, load_samples
from fisherscope.models.base import GenerativeModel, load_model, make_model
from fisherscope.models.training import Progress, TrainingSet, TrainSettings, train

_DEFAULT_WINDOW: Final = 128


def train_settings(table: TrainingTable) -> TrainSettings:
    """Return the settings of a ``[training]`` table, defaults filled in."""
    return TrainSettings(**table.model_dump(exclude_none=True))


def train_from_config(
    config: TrainConfig,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    device: str | torch.device = "cpu",
    resume: bool = False,
    command: str | None = None,
    report: Callable[[Progress], None] | None = None,
) -> GenerativeModel:
    """Train the model that a configuration describes and save it.

    Args:
        config: what to train on what, and how.
        folder: where the model and its checkpoints go.
        data_root: folder of named sets.
        device: where to compute.
        resume: continue an interrupted training of that folder.
        command: command line for the model card.
        report: called after every step.

    Returns:
        The trained model in eval mode, as it was stored.
    """
    settings = train_settings(config.training)
    samples = load_samples(
        config.data,
        split=config.split,
        default_split="train",
        data_root=data_root,
        limit=config.limit,
        seed=settings.seed,
        resize=config.resize,
        window=config.window,
        default_window=_DEFAULT_WINDOW,
    )
    model = train_on(
        config.family,
        samples,
        settings,
        folder,
        config=config.model,
        device=device,
        resume=resume,
        command=command,
        report=report,
    )
    if config.storage == "float32":
        return model
    model.save(folder, dtype=torch.float16)
    return load_model(folder, device=device)


def train_on(
    family: str,
    samples: Samples,
    settings: TrainSettings,
    folder: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    resume: bool = False,
    command: str | None = None,
    report: Callable[[Progress], None] | None = None,
) -> GenerativeModel:
    """Train a model of a family on samples and save it.

    Args:
        family: name of the model family, e.g. ``glow``.
        samples: what to train on: images (N, C, H, W) or windows of text (N, T), uint8, or rows (N, D).
        settings: budget and optimiser.
        folder: where the model and its checkpoints go.
        config: arguments of the family's constructor beside ``data_shape`` and ``init_seed``.
        device: where to compute.
        resume: continue an interrupted training of that folder.
        command: command line for the model card.
        report: called after every step.

    Returns:
        The trained model in eval mode.
    """
    model = make_model(family, data_shape=samples.shape, init_seed=settings.seed, **(config or {}))
    if model.value_range == (0.0, 255.0):
        _require_levels(samples)
    data = TrainingSet(samples.x, samples.keys, samples.name)
    return train(model, data, settings, folder, device=device, resume=resume, command=command, report=report)


def _require_levels(samples: Samples) -> None:
    if samples.x.dtype.kind == "f" and (samples.x.min() < 0 or samples.x.max() > 255 or samples.x.max() <= 1):
        raise DataError(f"{samples.name} holds floats outside [0, 255] or all within [0, 1]; give 8-bit levels")
