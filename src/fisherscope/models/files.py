"""The two files of a saved model: ``model.safetensors`` holds its state, ``model.json`` says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fisherscope.core.errors import CardMismatchError, ModelError
from fisherscope.core.store import read_json, write_atomic, write_json

FORMAT_VERSION: Final = 1
_HEAD_TYPES: Final = {"family": str, "config": dict, "fingerprint": str, "card": dict}


@dataclass(frozen=True)
class ModelCard:
    """What a saved model says of itself.

    Attributes:
        name: short name.
        data: name of the training set as the user wrote it.
        data_fingerprint: fingerprint of the training samples.
        command: the command that made the model.
        seed: seed of initialisation, batches and noise.
        steps: optimiser steps taken.
        minutes: wall-clock minutes of training, all runs together.
        bits_per_dim: bits per dimension by set name; lower is better.
        versions: versions of the libraries it was made with.
        not_for: what the model must not be used for.
        columns: names of the columns of the table it was trained on, in their order; None where it had none.
    """

    name: str = ""
    data: str = ""
    data_fingerprint: str = ""
    command: str = ""
    seed: int = 0
    steps: int = 0
    minutes: float = 0.0
    bits_per_dim: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    not_for: str = "Judging people, safety decisions without a human, or generating images for publication."
    columns: Sequence[str] | None = None


@dataclass(frozen=True)
class Head:
    """Contents of ``model.json``.

    Attributes:
        family: name of the model family.
        config: arguments of the family's constructor.
        fingerprint: fingerprint of config and state, which ties the two files together.
        card: what is known of the training.
    """

    family: str
    config: Mapping[str, Any]
    fingerprint: str
    card: ModelCard


STATE: Final = Path("training") / "state.safetensors"
"""Where in a model's folder its training keeps what it needs to go on."""


def write_head(folder: Path, head: Head) -> None:
    """Write ``model.json``."""
    write_json(folder / "model.json", {"format_version": FORMAT_VERSION, **asdict(head)})


def read_head(folder: Path) -> Head:
    """Read ``model.json``; a missing, foreign or damaged one is a :class:`ModelError`."""
    path = folder / "model.json"
    if not path.is_file():
        raise ModelError(f"{folder} is not a saved model: it holds no model.json")
    value = read_json(path, ModelError)
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, expected the head of a saved model; copy it again")
    if value.get("format_version") != FORMAT_VERSION:
        raise CardMismatchError(
            "format_version", FORMAT_VERSION, value.get("format_version"), "save the model with this version"
        )
    for name, kind in _HEAD_TYPES.items():
        if not isinstance(value.get(name), kind):
            raise ModelError(f"{path} has no usable '{name}'; it was damaged or written by hand, copy it again")
    card = {f.name: value["card"][f.name] for f in fields(ModelCard) if f.name in value["card"]}
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in value["config"].items()}
    return Head(value["family"], config, value["fingerprint"], ModelCard(**card))


def stored_state(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return a module's state as it goes into a file: on the CPU, floating tensors in ``dtype`` where one is given.

    Raises:
        ModelError: a value is NaN or inf, or too large for ``dtype``; the tensor is named.
    """
    state = {}
    for name, tensor in module.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        if not torch.isfinite(value).all():
            raise ModelError(f"{name} holds NaN or inf; train again from an earlier checkpoint")
        state[name] = value.to(dtype) if dtype is not None and value.is_floating_point() else value
        if not torch.isfinite(state[name]).all():
            raise ModelError(f"{str(dtype).removeprefix('torch.')} cannot hold the values of {name}; save in float32")
    return state


def write_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write ``model.safetensors``; tied tensors, which the format does not know, are written once each."""
    write_atomic(folder / "model.safetensors", save({name: tensor.clone() for name, tensor in state.items()}))


def load_state(module: nn.Module, folder: Path) -> nn.Module:
    """Read ``model.safetensors`` into a module and return it, in float64 if that is what the file holds.

    Raises:
        ModelError: the file is missing or truncated, or its tensors are not those of the module.
    """
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist; the copy of the model is incomplete") from None
    except (SafetensorError, OSError) as cause:
        raise ModelError(f"{path} is truncated or not a safetensors file ({cause}); copy the model again") from None
    if any(v.dtype == torch.float64 for v in state.values()):
        module = module.double()
    try:
        module.load_state_dict(state)
    except RuntimeError as cause:
        raise ModelError(f"{path} does not fit its model.json: {str(cause).splitlines()[0]}") from None
    return module
