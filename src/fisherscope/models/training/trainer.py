"""State of one training: the model, its moving average, the optimiser, the clock."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.core.keys import fingerprint_keys, sample_keys
from fisherscope.core.parts import part
from fisherscope.models.base import GenerativeModel
from fisherscope.models.files import STATE, ModelCard
from fisherscope.models.protocols import InitialisedFromData, OwnTrainingLoss, bound_of
from fisherscope.models.training.files import drop_metrics_after, read_checkpoint, write_checkpoint
from fisherscope.models.training.settings import TrainingSet, TrainSettings
from fisherscope.models.training.workers import Workers

_VALIDATION_SEED: Final = 10**9
_LOOKED_AT: Final = 500
LOG_2: Final = math.log(2.0)


def _layout(settings: TrainSettings, data: TrainingSet) -> torch.memory_format:
    if settings.channels_last and data.x.ndim != 4:
        raise SettingError(
            f"channels_last is for images (n, C, H, W); {data.name} has samples of shape {data.x.shape[1:]}, "
            "leave channels_last out"
        )
    return torch.channels_last if settings.channels_last else torch.preserve_format


def _adam_state(parameter: Tensor, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not stored:  # no gradient has reached this parameter yet
        return {}
    # Laid out like the parameter, in memory of its own: Adam's kernels round differently on other strides and
    # alignments, and a resumed run would not be the straight one to the bit.
    moments = {k: torch.empty_like(parameter).copy_(stored[k]) for k in ("exp_avg", "exp_avg_sq")}
    return {"step": stored["step"].to(parameter.device), **moments}


class Trainer:
    """A model in training.

    Args:
        model: the model, on the device of ``workers``.
        data: samples and keys.
        settings: how to train.
        folder: where the model goes.
        workers: the processes that share each batch.
    """

    def __init__(
        self, model: GenerativeModel, data: TrainingSet, settings: TrainSettings, folder: Path, workers: Workers
    ) -> None:
        self.model, self.data, self.settings, self.folder, self.workers = model, data, settings, folder, workers
        self.layout = _layout(settings, data)
        model.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.state_path = folder / STATE
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.Adam(self.trained.values(), lr=settings.learning_rate, fused=True)
        self.average = self._copy()
        self.best: dict[str, Tensor] = {}
        self.step, self.seconds = 0, 0.0
        self.validation: float | None = None
        self.best_validation, self.stale = math.inf, 0
        order = np.random.default_rng(settings.seed).permutation(len(data.x))
        held_out = max(1, round(settings.validation_fraction * len(order)))
        self.validation_rows, self.train_rows = order[:held_out], order[held_out:]
        self._check_batch_size()

    def _check_batch_size(self) -> None:
        size, count = self.settings.batch_size, len(self.train_rows)
        if count < size:
            raise DataError(
                f"{self.data.name} leaves {count} samples to train on, fewer than one batch of {size}; "
                "give more samples or a smaller batch size"
            )
        if size % self.workers.size:
            raise SettingError(f"a batch of {size} cannot be shared evenly by {self.workers.size} processes")

    def _copy(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.model.named_parameters()}

    def _like_parameters(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: torch.empty_like(p.detach()).copy_(stored[k]) for k, p in self.model.named_parameters() if stored}

    def batch_rows(self, step: int) -> NDArray[np.intp]:
        """Return the rows of a step: epochs in a shuffled order that depends on seed and epoch alone."""
        per_epoch = len(self.train_rows) // self.settings.batch_size
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(self.train_rows)
        return order[place * self.settings.batch_size :][: self.settings.batch_size]

    def _rows(self, rows: NDArray[np.intp]) -> tuple[Tensor, NDArray[np.uint64]]:
        x = torch.from_numpy(self.data.x[rows]).to(self.workers.device, memory_format=self.layout)
        return x, self.data.keys[rows]

    def initialise(self) -> None:
        """Let the model set what it takes from a first batch of data."""
        if isinstance(self.model, InitialisedFromData):
            x, keys = self._rows(self.batch_rows(0))
            self.model.initialise(x, seed=self.settings.seed, keys=keys)
            self.average = self._copy()

    def _loss(self) -> Tensor:
        rows = self.batch_rows(self.step)[self.workers.rank :: self.workers.size]
        x, keys = self._rows(rows)
        seed = self.settings.seed + 1 + self.step
        with torch.autocast(self.workers.device.type, dtype=torch.bfloat16, enabled=self.settings.autocast):
            if isinstance(self.model, OwnTrainingLoss):
                nats = self.model.training_loss(x, seed=seed, keys=keys)
            else:
                nats = -self.model.log_prob(x, seed=seed, keys=keys)
        return nats.mean() / self.model.n_dims

    def take_step(self) -> float:
        """Take one optimiser step; return the loss of its batch in bits per dimension."""
        loss = self._loss()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.detach()
        self.workers.mean_([value, *(p.grad for p in self.trained.values() if p.grad is not None)])
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.settings.gradient_clip)
        if not (torch.isfinite(value) and torch.isfinite(norm)):
            raise ModelError(self._diverged(value.item(), norm.item()))
        warm = min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return value.item() / LOG_2

    def _diverged(self, loss: float, norm: float) -> str:
        advice = (
            "the last checkpoint is intact, resume from it with a lower learning rate"
            if self.state_path.is_file()
            else "train again with a lower learning rate"
        )
        return f"training diverged at step {self.step}: the loss is {loss}, its gradient norm {norm}; {advice}"

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on, a short memory: otherwise the random initial weights would linger in the average.
        decay = min(self.settings.ema_decay, self.step / (self.step + 10))
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def validate(self) -> float:
        """Return the bits/dim of the averaged parameters on the held-out rows, each process taking its share."""
        own = self._copy()
        self._load(self.average)
        mine = self.validation_rows[self.workers.rank :: self.workers.size]
        total = 0.0
        for rows in np.array_split(mine, math.ceil(len(mine) / 256)) if len(mine) else []:
            x, keys = self._rows(rows)
            total += bound_of(self.model, x, seed=_VALIDATION_SEED, keys=keys).double().sum().item()
        self._load(own)
        mean = self.workers.mean(total) * self.workers.size / len(self.validation_rows)
        return -mean / (self.model.n_dims * LOG_2)

    def validate_and_compare(self) -> None:
        """Measure the validation bits/dim and note whether it is the best so far."""
        self.validation = self.validate()
        if self.validation < self.best_validation:
            self.best_validation, self.stale = self.validation, 0
            if self.settings.patience is not None:
                self.best = {k: v.clone() for k, v in self.average.items()}
        else:
            self.stale += 1

    @torch.no_grad()
    def _load(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(values[name])

    def fraction(self) -> float:
        """Return the share of the budget that is spent: 1 too when validation has stopped improving."""
        if self.settings.patience is not None and self.stale >= self.settings.patience:
            return 1.0
        if self.settings.steps is not None:
            return min(1.0, self.step / self.settings.steps)
        return min(1.0, self.seconds / (60 * (self.settings.minutes or 0.0)))

    def _identity(self) -> dict[str, object]:
        return {
            "family": self.model.family,
            "config": self.model.config(),
            "data": fingerprint_keys(self.data.keys),
            "values": self._values(),
            "settings": self.settings.binding(),
        }

    def _values(self) -> str:
        """Return the fingerprint of some samples: perturbed ones keep the keys of the originals."""
        step = max(1, len(self.data.x) // _LOOKED_AT)
        return fingerprint_keys(sample_keys(self.data.x[::step]))

    def checkpoint(self) -> None:
        """Write everything that a resumed run needs."""
        if not self.workers.main:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for name, parameter in self.trained.items():
            tensors |= {f"adam.{name}.{k}": v for k, v in self.optimiser.state[parameter].items()}
        head = self._identity() | {"step": self.step, "seconds": self.seconds, "validation": self.validation}
        if math.isfinite(self.best_validation):
            head |= {"best_validation": self.best_validation, "stale": self.stale}
        write_checkpoint(self.state_path, head, tensors)

    def resume(self) -> None:
        """Continue from the checkpoint; another model, data set or setting is an error that names the field."""
        head, tensors = read_checkpoint(self.state_path)
        for name, value in self._identity().items():
            if head.get(name) != value:
                raise CardMismatchError(name, value, head.get(name), "resume with the same model, data and settings")
        self.step, self.seconds, self.validation = head["step"], head["seconds"], head["validation"]
        self.best_validation, self.stale = head.get("best_validation", math.inf), head.get("stale", 0)
        self.model.load_state_dict(part(tensors, "model."))
        self.average = self._like_parameters(part(tensors, "average."))
        self.best = self._like_parameters(part(tensors, "best."))
        for name, parameter in self.trained.items():
            self.optimiser.state[parameter] = _adam_state(parameter, part(tensors, f"adam.{name}."))
        if self.workers.main:
            drop_metrics_after(self.folder, self.step)

    def finish(self, command: str) -> GenerativeModel:
        """Put the averaged parameters (the best ones, where patience asks for them) and the card into the model."""
        if self.best:
            self.average = self.best
        validation = self.validate()
        self._load(self.average)
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
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
            columns=self.data.columns,
        )
        self.model.train_keys = np.sort(self.data.keys)
        return self.model.eval()
