"""The loop itself: steps, validations, checkpoints, Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fisherscope.core.errors import SettingError
from fisherscope.models.base import GenerativeModel
from fisherscope.models.protocols import bound_of
from fisherscope.models.training.files import append_metrics
from fisherscope.models.training.settings import Progress, TrainingSet, TrainSettings
from fisherscope.models.training.trainer import LOG_2, Trainer
from fisherscope.models.training.workers import workers


def train(
    model: GenerativeModel,
    data: TrainingSet,
    settings: TrainSettings,
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
    storage: torch.dtype | None = None,
    command: str = "",
    report: Callable[[Progress], None] | None = None,
) -> GenerativeModel:
    """Train a model and save it, with checkpoints on the way.

    Under ``torchrun`` every process calls this alike and each takes its share of every batch; the first one writes
    and reports.

    Args:
        model: an untrained model of the data's shape.
        data: samples and their keys; a share is held out for validation.
        settings: budget and optimiser.
        folder: where the model goes; checkpoints and ``metrics.jsonl`` in its subfolder ``training``.
        device: where to compute.
        resume: continue from the checkpoint in ``folder``.
        storage: floating dtype of the saved file; by default that of the parameters.
        command: the command line that trains the model, for its card.
        report: called after every step.

    Returns:
        The model with the averaged parameters, in eval mode, saved in ``folder``.

    Raises:
        SettingError: ``folder`` already holds a training and ``resume`` is off, or the other way round.
        ModelError: the loss or its gradient became NaN or inf.
        KeyboardInterrupt: after a checkpoint was written.
    """
    with workers(torch.device(device)) as team:
        trainer = Trainer(model.to(team.device).train(), data, settings, Path(folder), team)
        _start(trainer, resume)
        with _deferred_interrupt() as pressed:
            interrupted = _run(trainer, report or (lambda progress: None), pressed)
            trainer.checkpoint()
        if interrupted:
            raise KeyboardInterrupt
        trained = trainer.finish(command)
        if team.main:
            trained.save(folder, dtype=storage)
        team.wait()
    return trained


def _start(trainer: Trainer, resume: bool) -> None:
    begun = trainer.state_path.is_file()
    if resume and not begun:
        raise SettingError(f"there is nothing to resume in {trainer.folder}; leave --resume out to start")
    if not resume and (begun or (trainer.folder / "model.json").is_file()):
        found = "a model" if (trainer.folder / "model.json").is_file() else "an interrupted training"
        raise SettingError(f"{trainer.folder} already holds {found}; use --resume to go on with it, or another folder")
    # No process may write its first checkpoint before all have looked for one.
    trainer.workers.wait()
    if resume:
        trainer.resume()
    else:
        trainer.initialise()


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until the running step is whole; yields a function that tells whether it was pressed."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)


def _run(trainer: Trainer, report: Callable[[Progress], None], pressed: Callable[[], bool]) -> bool:
    """Take steps until the budget is spent; return whether an interrupt came first."""
    last = saved = time.monotonic()
    # All processes must leave together, so what their own clocks and signals say is averaged.
    while (fraction := trainer.workers.mean(trainer.fraction())) < 1:
        if trainer.workers.mean(float(pressed())) > 0:
            return True
        bits = trainer.take_step()
        validated = trainer.step % trainer.settings.validate_every == 0
        if validated:
            trainer.validate_and_compare()
        now = time.monotonic()
        trainer.seconds += now - last
        last = now
        if trainer.workers.main and (validated or trainer.step % 50 == 0):
            _log(trainer, bits, validated)
        if now - saved > trainer.settings.checkpoint_every:
            trainer.checkpoint()
            saved = now
        if trainer.workers.main:
            fraction = trainer.fraction()
            report(Progress(trainer.step, fraction, bits, trainer.validation, trainer.seconds))
    return False


def _log(trainer: Trainer, bits: float, validated: bool) -> None:
    line = {"step": trainer.step, "seconds": round(trainer.seconds, 1), "bits_per_dim": round(bits, 4)}
    if validated and trainer.validation is not None:
        line["validation"] = round(trainer.validation, 4)
    append_metrics(trainer.folder / "training" / "metrics.jsonl", line)


@torch.no_grad()
def bits_per_dim(model: GenerativeModel, data: TrainingSet, *, seed: int = 0, batch_size: int = 128) -> float:
    """Return the mean bits/dim of a model on a set of samples; lower is better."""
    total = 0.0
    for start in range(0, len(data.x), batch_size):
        x = torch.from_numpy(data.x[start : start + batch_size])
        keys = data.keys[start : start + batch_size]
        total += bound_of(model, x, seed=seed, keys=keys).double().sum().item()
    return -total / (len(data.x) * model.n_dims * LOG_2)
