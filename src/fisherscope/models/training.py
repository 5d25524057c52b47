"""The training loop: one for every family.

Everything random is a function of the seed and the step (the order of samples, the noise), so a resumed run on a
CPU continues exactly where the interrupted one stopped.
"""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.core.keys import KeyArray, fingerprint_keys
from fisherscope.core.store import write_atomic
from fisherscope.models.base import GenerativeModel, ModelCard

_VALIDATION_SEED: Final = 10**9
_LOG_2: Final = math.log(2.0)


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        steps: optimiser steps to take; None when the time decides.
        minutes: wall-clock budget over all runs of this training; None when the steps decide.
        batch_size: samples a step.
        learning_rate: of Adam (Kingma & Ba 2015), reached after ``warmup_steps``.
        warmup_steps: steps over which the learning rate rises linearly.
        gradient_clip: largest norm of the gradient of the loss in nats per dimension.
        ema_decay: decay of the moving average of the parameters, which is what gets saved.
        validation_fraction: share of the training samples held out for the validation bits/dim.
        validate_every: steps between validations.
        checkpoint_every: seconds between checkpoints.
        seed: seed of batches and noise.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    validation_fraction: float = 0.025
    validate_every: int = 250
    checkpoint_every: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the budget and the ranges."""
        if (self.steps is None) == (self.minutes is None):
            raise SettingError(f"give either steps or minutes, not steps={self.steps} and minutes={self.minutes}")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and self.minutes <= 0):
            raise SettingError(f"the budget must be positive: steps={self.steps}, minutes={self.minutes}")
        if self.batch_size < 1 or self.learning_rate <= 0 or self.gradient_clip <= 0:
            raise SettingError("batch_size, learning_rate and gradient_clip must be positive")
        if not (0 <= self.ema_decay < 1 and 0 < self.validation_fraction < 1):
            raise SettingError("ema_decay must lie in [0, 1) and validation_fraction in (0, 1)")


@dataclass(frozen=True)
class TrainingSet:
    """What to train on.

    Attributes:
        x: samples, shape (n, *data_shape).
        keys: their keys, shape (n,), uint64.
        name: what the user called them.
    """

    x: NDArray[Any]
    keys: KeyArray
    name: str


@dataclass(frozen=True)
class Progress:
    """One report of the training loop.

    Attributes:
        step: optimiser steps taken.
        fraction: share of the budget that is spent, in [0, 1].
        bits_per_dim: of the last batch.
        validation: validation bits/dim of the averaged parameters, or None where not measured yet.
        seconds: time spent in training, over all runs.
    """

    step: int
    fraction: float
    bits_per_dim: float
    validation: float | None
    seconds: float


@runtime_checkable
class InitialisedFromData(Protocol):
    """A model that sets some parameters from a first batch of data (Glow's actnorm)."""

    def initialise(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> None:
        """Set them; called once before training."""


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return json.loads((file.metadata() or {})["head"]), tensors
    except (SafetensorError, OSError, KeyError, ValueError) as cause:
        raise ModelError(f"{path} is truncated or no training checkpoint ({cause}); train again") from None


class _Trainer:
    """State of one training: the model, its moving average, the optimiser, the clock."""

    def __init__(self, model: GenerativeModel, data: TrainingSet, settings: TrainSettings, folder: Path) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.state_path = folder / "training" / "state.safetensors"
        self.metrics_path = folder / "training" / "metrics.jsonl"
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
        self.average = {k: v.detach().clone() for k, v in model.named_parameters()}
        self.step, self.seconds = 0, 0.0
        self.validation: float | None = None
        order = np.random.default_rng(settings.seed).permutation(len(data.x))
        held_out = max(1, round(settings.validation_fraction * len(order)))
        self.validation_rows, self.train_rows = order[:held_out], order[held_out:]
        if len(self.train_rows) < settings.batch_size:
            raise DataError(
                f"{data.name} leaves {len(self.train_rows)} samples to train on, fewer than one batch of "
                f"{settings.batch_size}; give more samples or a smaller batch size"
            )

    def batch_rows(self, step: int) -> NDArray[np.intp]:
        """Return the rows of a step: epochs in a shuffled order that depends on seed and epoch alone."""
        per_epoch = len(self.train_rows) // self.settings.batch_size
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(self.train_rows)
        return order[place * self.settings.batch_size :][: self.settings.batch_size]

    def nats_per_dim(self, rows: NDArray[np.intp], seed: int) -> Tensor:
        """Return -log p / dimensions of some rows, shape (n,)."""
        x = torch.from_numpy(self.data.x[rows])
        log_p: Tensor = self.model(x, seed=seed, keys=self.data.keys[rows])
        return -log_p / self.model.n_dims

    def take_step(self) -> float:
        """Take one optimiser step; return the bits/dim of its batch."""
        loss = self.nats_per_dim(self.batch_rows(self.step), self.settings.seed + 1 + self.step).mean()
        if not torch.isfinite(loss):
            raise ModelError(
                f"training diverged at step {self.step}: the loss is {loss.item()}; the last checkpoint is intact, "
                "resume from it with a lower learning rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        warm = min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return loss.item() / _LOG_2

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on, a short memory: otherwise the random initial weights would linger in the average.
        decay = min(self.settings.ema_decay, self.step / (self.step + 10))
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def validate(self) -> float:
        """Return the bits/dim of the averaged parameters on the held-out rows."""
        own = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self._load(self.average)
        chunks = np.array_split(self.validation_rows, math.ceil(len(self.validation_rows) / 256))
        total = torch.cat([self.nats_per_dim(rows, _VALIDATION_SEED) for rows in chunks]).mean().item() / _LOG_2
        self._load(own)
        self.validation = total
        return total

    @torch.no_grad()
    def _load(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(values[name])

    def fraction(self) -> float:
        """Return the share of the budget that is spent."""
        if self.settings.steps is not None:
            return min(1.0, self.step / self.settings.steps)
        return min(1.0, self.seconds / (60 * (self.settings.minutes or 0.0)))

    def log(self, record: Mapping[str, float | int | None]) -> None:
        """Append one line to the metrics file."""
        self.metrics_path.parent.mkdir(parents=True, exist_ok=True)
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def checkpoint(self) -> None:
        """Write everything that a resumed run needs."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for name, parameter in zip(self.names, self.optimiser.param_groups[0]["params"], strict=True):
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"adam.{name}.{key}"] = value
        head = {
            "step": self.step,
            "seconds": self.seconds,
            "validation": self.validation,
            "data": fingerprint_keys(self.data.keys),
            "config": self.model.config(),
            "settings": asdict(self.settings),
        }
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        write_atomic(self.state_path, save(plain, metadata={"head": json.dumps(head)}))

    def resume(self) -> None:
        """Continue from the checkpoint; another model, data set or setting is an error that names the field."""
        head, tensors = _read_state(self.state_path)
        mine = {"data": fingerprint_keys(self.data.keys), "config": self.model.config()}
        budget = {"steps", "minutes", "checkpoint_every", "validate_every"}
        mine["settings"] = {k: v for k, v in asdict(self.settings).items() if k not in budget}
        head["settings"] = {k: v for k, v in head["settings"].items() if k not in budget}
        for name, value in mine.items():
            if head[name] != value:
                raise CardMismatchError(name, value, head[name], "resume with the same data and settings")
        self.step, self.seconds, self.validation = head["step"], head["seconds"], head["validation"]
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.average = {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}
        for name, parameter in zip(self.names, self.optimiser.param_groups[0]["params"], strict=True):
            prefix = f"adam.{name}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            self.optimiser.state[parameter] = state

    def finish(self, command: str) -> GenerativeModel:
        """Put the averaged parameters and the card into the model, in eval mode."""
        validation = self.validate()
        self._load(self.average)
        self.model.card = ModelCard(
            name=f"{self.model.family}-{self.data.name}",
            data=self.data.name,
            data_fingerprint=fingerprint_keys(self.data.keys),
            command=command,
            seed=self.settings.seed,
            steps=self.step,
            minutes=round(self.seconds / 60, 2),
            bits_per_dim={"validation": round(validation, 4)},
            versions={"python": platform.python_version(), "torch": torch.__version__.split("+")[0]},
        )
        self.model.train_keys = np.sort(self.data.keys)
        return self.model.eval()


def train(
    model: GenerativeModel,
    data: TrainingSet,
    settings: TrainSettings,
    folder: str | Path,
    *,
    resume: bool = False,
    command: str | None = None,
    report: Callable[[Progress], None] | None = None,
) -> GenerativeModel:
    """Train a model and save it, with checkpoints on the way.

    Args:
        model: an untrained model of the data's shape.
        data: samples and their keys; a share is held out for validation.
        settings: budget and optimiser.
        folder: where the model goes; checkpoints and ``metrics.jsonl`` in its subfolder ``training``.
        resume: continue from the checkpoint in ``folder``.
        command: the command line for the model card; by default this process's.
        report: called after every step.

    Returns:
        The model with the averaged parameters, in eval mode, saved in ``folder``.

    Raises:
        SettingError: ``folder`` already holds a training and ``resume`` is off, or the other way round.
        KeyboardInterrupt: after a checkpoint was written.
    """
    folder = Path(folder)
    trainer = _Trainer(model.train(), data, settings, folder)
    if resume:
        if not trainer.state_path.is_file():
            raise SettingError(f"there is nothing to resume in {folder}; leave --resume out to start")
        trainer.resume()
    elif trainer.state_path.is_file() or (folder / "model.json").is_file():
        raise SettingError(f"{folder} already holds a model; use --resume to go on with it, or another folder")
    elif isinstance(model, InitialisedFromData):
        rows = trainer.batch_rows(0)
        model.initialise(torch.from_numpy(data.x[rows]), seed=settings.seed, keys=data.keys[rows])
        trainer.average = {k: v.detach().clone() for k, v in model.named_parameters()}
    with _deferred_interrupt() as interrupted:
        _run(trainer, report or (lambda progress: None), interrupted)
        trainer.checkpoint()
    if interrupted():
        raise KeyboardInterrupt
    trained = trainer.finish(command or " ".join(["fisherscope", *sys.argv[1:]]))
    trained.save(folder)
    return trained


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


def _run(trainer: _Trainer, report: Callable[[Progress], None], interrupted: Callable[[], bool]) -> None:
    last = saved = time.monotonic()
    while trainer.fraction() < 1 and not interrupted():
        bits = trainer.take_step()
        if trainer.step % trainer.settings.validate_every == 0:
            trainer.validate()
        now = time.monotonic()
        trainer.seconds += now - last
        last = now
        if trainer.step % trainer.settings.validate_every == 0 or trainer.step % 50 == 0:
            line = {"step": trainer.step, "seconds": round(trainer.seconds, 1), "bits_per_dim": round(bits, 4)}
            if trainer.step % trainer.settings.validate_every == 0:
                line["validation"] = round(trainer.validation or 0.0, 4)
            trainer.log(line)
        if now - saved > trainer.settings.checkpoint_every:
            trainer.checkpoint()
            saved = now
        report(Progress(trainer.step, trainer.fraction(), bits, trainer.validation, trainer.seconds))


def bits_per_dim(model: GenerativeModel, data: TrainingSet, *, seed: int = 0, batch_size: int = 128) -> float:
    """Return the mean bits/dim of a model on a set of samples; lower is better."""
    with torch.no_grad():
        total = 0.0
        for start in range(0, len(data.x), batch_size):
            x = torch.from_numpy(data.x[start : start + batch_size])
            total += model.log_prob(x, seed=seed, keys=data.keys[start : start + batch_size]).sum().item()
    return -total / (len(data.x) * model.n_dims * _LOG_2)
