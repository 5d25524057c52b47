"""From a named set to a trained, saved model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from fisherscope.config import TrainConfig, TrainingTable
from fisherscope.core.errors import DataError
from fisherscope.core.store import write_atomic
from fisherscope.data import Samples, load_samples
from fisherscope.models.base import GenerativeModel, load_model, make_model
from fisherscope.models.protocols import OwnTrainingLoss
from fisherscope.models.training import Progress, TrainingSet, TrainSettings, read_metrics, train
from fisherscope.models.training.workers import is_first
from fisherscope.pipeline.batches import require_resolved
from fisherscope.pipeline.perturbation import perturb_samples
from fisherscope.report.figures import figure_bytes
from fisherscope.report.training import training_curve

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
    command: str = "",
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
    if config.perturb is not None:
        samples = perturb_samples(samples, config.perturb, seed=settings.seed)
    model = train_on(
        config.family,
        samples,
        settings,
        folder,
        config=config.model,
        device=device,
        resume=resume,
        storage=torch.float16 if config.storage == "float16" else None,
        command=command,
        report=report,
    )
    return model if config.storage == "float32" else load_model(folder, device=device)


def train_on(
    family: str,
    samples: Samples,
    settings: TrainSettings,
    folder: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    resume: bool = False,
    storage: torch.dtype | None = None,
    command: str = "",
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
        storage: floating dtype of the saved file; by default that of the parameters.
        command: command line for the model card.
        report: called after every step.

    Returns:
        The trained model in eval mode. Its folder holds the curve of the training too, ``training/curve.png``.
    """
    model = make_model(family, data_shape=samples.shape, init_seed=settings.seed, **(config or {}))
    if model.value_range == (0.0, 255.0):
        _require_levels(samples)
    require_resolved(samples.x, samples.name, samples.columns, torch.float32)
    data = TrainingSet(samples.x, samples.keys, samples.name, samples.columns)
    trained = train(
        model, data, settings, folder, device=device, resume=resume, storage=storage, command=command, report=report
    )
    if is_first():
        _write_curve(Path(folder), trained)
    return trained


def _write_curve(folder: Path, model: GenerativeModel) -> None:
    # A few steps log nothing.
    if metrics := read_metrics(folder):
        figure = training_curve(metrics, own_loss=isinstance(model, OwnTrainingLoss))
        write_atomic(folder / "training" / "curve.png", figure_bytes(figure, "png"))


def _require_levels(samples: Samples) -> None:
    if samples.x.dtype.kind == "f" and (samples.x.min() < 0 or samples.x.max() > 255 or samples.x.max() <= 1):
        raise DataError(f"{samples.name} holds floats outside [0, 255] or all within [0, 1]; give 8-bit levels")
