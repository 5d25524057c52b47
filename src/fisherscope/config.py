"""Schema of the experiment files; no behaviour.

``experiments/train/*.toml`` hold one training each::

    family = "glow"
    data = "fashion_mnist"

    [model]                 # arguments of the family's constructor
    steps = 16

    [training]
    minutes = 60
    learning_rate = 1e-3
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fisherscope.core.errors import SettingError

_STRICT = ConfigDict(extra="forbid", frozen=True)


class TrainingTable(BaseModel):
    """Table ``[training]``: the fields of ``TrainSettings``; what is absent takes the default there."""

    model_config = _STRICT

    steps: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    gradient_clip: float | None = None
    ema_decay: float | None = None
    validation_fraction: float | None = None
    validate_every: int | None = None
    patience: int | None = None
    checkpoint_every: float | None = None
    autocast: bool | None = None
    channels_last: bool | None = None
    seed: int | None = None


class TrainConfig(BaseModel):
    """One training.

    Attributes:
        family: name of the model family.
        data: training samples, as ``--data`` takes them.
        split: split of the set.
        limit: use at most so many samples.
        resize: (C, H, W) to convert images to.
        perturb: share of values to replace by uniform levels, for a background model; None leaves the samples alone.
        window: bytes of the windows that a text is cut into; by default 128.
        storage: floating dtype of the saved file.
        model: arguments of the family's constructor beside data_shape and init_seed.
        training: budget and optimiser.
    """

    model_config = _STRICT

    family: str
    data: str
    split: str | None = None
    limit: int | None = None
    resize: tuple[int, int, int] | None = None
    perturb: float | None = None
    window: int | None = None
    storage: Literal["float32", "float16"] = "float32"
    model: dict[str, Any] = Field(default_factory=dict)
    training: TrainingTable = Field(default_factory=TrainingTable)


def read_train_config(path: str | Path) -> TrainConfig:
    """Read a training's .toml file; a :class:`SettingError` names the field that is wrong."""
    path = Path(path)
    try:
        return TrainConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SettingError(f"{path} does not exist; give an experiment file such as experiments/train/*.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as cause:
        raise SettingError(f"{path} is not readable TOML ({cause})") from None
    except ValidationError as cause:
        first = cause.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SettingError(f"{path}: {field}: {first['msg']}") from None
