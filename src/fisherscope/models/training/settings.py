"""What a training is told and what it tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from numpy.typing import NDArray

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import KeyArray

_FREE: Final = {"steps", "minutes", "learning_rate", "checkpoint_every", "validate_every", "patience", "channels_last"}


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        steps: optimiser steps to take; None when the time decides.
        minutes: wall-clock budget over all runs of this training; None when the steps decide.
        batch_size: samples a step, over all processes together.
        learning_rate: of Adam (Kingma & Ba 2015), reached after ``warmup_steps``.
        warmup_steps: steps over which the learning rate rises linearly.
        gradient_clip: largest norm of the gradient of the loss in nats per dimension.
        ema_decay: decay of the moving average of the parameters, which is what gets saved.
        validation_fraction: share of the training samples held out for the validation bits/dim.
        validate_every: steps between validations.
        patience: stop after so many validations without a new best, and keep the best; None trains to the end.
        checkpoint_every: seconds between checkpoints.
        autocast: run the forward pass in bfloat16 where the operation allows it; for GPUs, and processors with
            bfloat16 units (AMX), where a step takes .5 to .7 of its time.
        channels_last: lay images and convolution weights out channels last, which convolutions in bfloat16 prefer.
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
    patience: int | None = None
    checkpoint_every: float = 60.0
    autocast: bool = False
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the budget and the ranges."""
        if (self.steps is None) == (self.minutes is None):
            raise SettingError(f"give either steps or minutes, not steps={self.steps} and minutes={self.minutes}")
        if (self.steps is not None and self.steps < 1) or not (self.minutes is None or self.minutes > 0):
            raise SettingError(f"the budget must be positive: steps={self.steps}, minutes={self.minutes}")
        for name in ("batch_size", "learning_rate", "gradient_clip", "validate_every", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingError(f"{name} is {value}, expected a number above 0")
        for name in ("warmup_steps", "checkpoint_every", "seed"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not (0 <= self.ema_decay < 1 and 0 < self.validation_fraction < 1):
            raise SettingError("ema_decay must lie in [0, 1) and validation_fraction in (0, 1)")

    def binding(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share with the first one."""
        return {k: v for k, v in asdict(self).items() if k not in _FREE}


@dataclass(frozen=True)
class TrainingSet:
    """What to train on.

    Attributes:
        x: samples, shape (n, *data_shape).
        keys: their keys, shape (n,), uint64.
        name: what the user called them.
        columns: names of the columns of a table, or None where it has none or the samples are no rows of one.
    """

    x: NDArray[Any]
    keys: KeyArray
    name: str
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Progress:
    """One report of the training loop.

    Attributes:
        step: optimiser steps taken.
        fraction: share of the budget that is spent, in [0, 1].
        bits_per_dim: loss of the last batch per dimension in bits: bits/dim, or the family's own training loss.
        validation: validation bits/dim of the averaged parameters, or None where not measured yet.
        seconds: time spent in training, over all runs.
    """

    step: int
    fraction: float
    bits_per_dim: float
    validation: float | None
    seconds: float

    @property
    def seconds_left(self) -> float:
        """Time left at the pace so far."""
        return self.seconds * (1 - self.fraction) / max(self.fraction, 1e-9)
