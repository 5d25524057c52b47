"""Schemas of the experiment files; no behaviour.

``experiments/train/*.toml`` hold one training each, :class:`TrainConfig`::

    family = "glow"
    data = "fashion_mnist"

    [model]                 # arguments of the family's constructor
    steps = 16

    [training]
    minutes = 60
    learning_rate = 1e-3

``experiments/reproduce/*.toml`` hold one table or figure each, :class:`ExperimentConfig`::

    runner = "auroc-grid"
    makes = "AUROC of the paper's method and of typicality on every pair of sets."
    minutes = 60
    group_sizes = [1, 5]
    detectors = ["layerwise-gaussian", "typicality"]

    [[grids]]
    name = "grey"
    families = ["glow", "vae"]
    in_dist = ["fashion_mnist", "mnist"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fisherscope.core.errors import SettingError

_Config = TypeVar("_Config", bound=BaseModel)


class Strict(BaseModel):
    """Settings that know all their names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingTable(Strict):
    """Table ``[training]``: the fields of ``TrainSettings``; what is absent takes the default there."""

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


class TrainConfig(Strict):
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


class GridTable(Strict):
    """Table ``[[grids]]``: models of every family on every in-distribution set, each with the other sets.

    Attributes:
        name: what tables and figures of the grid are called.
        families: model families; the models are called ``FAMILY-SET``. Empty where the sets alone are looked at.
        in_dist: in-distribution sets.
        out_dist: sets to compare with, without the in-distribution one of each model; None for those of ``in_dist``.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    families: tuple[str, ...] = ()
    in_dist: tuple[str, ...] = Field(min_length=1)
    out_dist: tuple[str, ...] | None = None

    @property
    def compared(self) -> tuple[str, ...]:
        """Sets to compare with."""
        return self.in_dist if self.out_dist is None else self.out_dist

    @property
    def sets(self) -> tuple[str, ...]:
        """Every set, once."""
        return tuple(dict.fromkeys((*self.in_dist, *self.compared)))


class ExperimentConfig(Strict):
    """One table or figure.

    Attributes:
        runner: which of the runners makes it.
        makes: one sentence.
        paper: what the paper reports of it, for the page; empty where it reports nothing.
        comment: what a person says of the zoo's results: what agrees with the paper, what does not, and why.
        minutes: how long it takes at most, with the zoo's models on two cores.
        grids: models and sets.
        group_sizes: every B.
        limit: samples a set that are compared; of an in-distribution set twice as many are taken, one half of which
            fits the detectors.
        detectors: their names.
        timesteps: a diffusion model is looked at through each of these terms of its bound by itself; empty for its own
            objective.
        options: the runner's own.
    """

    runner: str
    makes: str
    paper: str = ""
    comment: str = ""
    minutes: float = Field(gt=0)
    grids: tuple[GridTable, ...] = ()
    group_sizes: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    limit: int = Field(default=1000, ge=1)
    detectors: tuple[str, ...] = ()
    timesteps: tuple[int, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)


def read_train_config(path: str | Path) -> TrainConfig:
    """Read a training's .toml file; a :class:`SettingError` names the field that is wrong."""
    return _read(Path(path), TrainConfig, "experiments/train/*.toml")


def read_experiment_config(path: str | Path) -> ExperimentConfig:
    """Read the .toml file of a table or figure; a :class:`SettingError` names the field that is wrong."""
    return _read(Path(path), ExperimentConfig, "experiments/reproduce/*.toml")


def _read(path: Path, schema: type[_Config], such_as: str) -> _Config:
    try:
        return check(schema, tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise SettingError(f"{path} does not exist; give an experiment file such as {such_as}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as cause:
        raise SettingError(f"{path} is not readable TOML ({cause})") from None


def check(schema: type[_Config], values: Mapping[str, Any], place: str) -> _Config:
    """Return values as an instance of a schema; a :class:`SettingError` names the place and the field."""
    try:
        return schema.model_validate(values)
    except ValidationError as cause:
        first = cause.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SettingError(f"{place}: {field}: {first['msg']}") from None
