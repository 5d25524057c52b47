"""The contract that every generative model keeps, and the files it lives in."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.core.keys import KeyArray, fingerprint_arrays
from fisherscope.core.store import read_arrays, read_json, write_arrays, write_atomic, write_json

FORMAT_VERSION: Final = 1

FAMILIES: Final[Mapping[str, str]] = {"glow": "fisherscope.models.glow:Glow"}
"""Model families by name, each as ``module:class``, imported only when asked for."""


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


class GenerativeModel(nn.Module, ABC):
    """A model with a log-likelihood, or a variational lower bound of it, per sample.

    Image models take x of shape (n, C, H, W) as 8-bit levels in [0, 255], uint8 or floating.

    Attributes:
        family: name of the model family, a key of ``FAMILIES``.
        data_shape: shape of one sample.
        value_range: lowest and highest value of a sample's entries.
        card: what is known of the training.
        train_keys: sorted keys of the samples it was trained on, uint64, or None where unknown.
    """

    family: ClassVar[str]
    data_shape: tuple[int, ...]
    value_range: tuple[float, float]
    card: ModelCard
    train_keys: KeyArray | None

    def __init__(self, data_shape: tuple[int, ...], value_range: tuple[float, float]) -> None:
        super().__init__()
        self.data_shape = data_shape
        self.value_range = value_range
        self.card = ModelCard()
        self.train_keys = None

    @abstractmethod
    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return log p(x) in nats, shape (n,).

        Args:
            x: samples, shape (n, *data_shape).
            seed: seed of the per-sample noise.
            keys: keys of the original samples, (n,) uint64; computed from x when None.
        """

    @abstractmethod
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n samples of the model, shape (n, *data_shape), in the dtype of the data (uint8 for images)."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the JSON-able arguments of the constructor that make this model again."""

    def forward(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return :meth:`log_prob`; here so that wrappers which call modules (DistributedDataParallel) work."""
        return self.log_prob(x, seed=seed, keys=keys)

    @property
    def n_dims(self) -> int:
        """Numbers in one sample; bits/dim = -log_prob / (n_dims log 2)."""
        return int(np.prod(self.data_shape))

    def check_batch(self, x: Tensor) -> Tensor:
        """Return x in the parameters' dtype and device; a wrong shape is a :class:`ModelError`."""
        if tuple(x.shape[1:]) != self.data_shape:
            raise ModelError(
                f"x has shape {tuple(x.shape)}, the {self.family} expects (n, {', '.join(map(str, self.data_shape))})"
            )
        like = next(self.parameters())
        return x.to(device=like.device, dtype=like.dtype)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``model.json`` and ``train_keys.safetensors``, each atomically."""
        folder = Path(folder)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        write_atomic(folder / "model.safetensors", save(state))
        if self.train_keys is not None:
            write_arrays(folder / "train_keys.safetensors", {"keys": self.train_keys}, {})
        head = {
            "format_version": FORMAT_VERSION,
            "family": self.family,
            "config": self.config(),
            "fingerprint": model_fingerprint(self),
            "card": asdict(self.card),
        }
        write_json(folder / "model.json", head)


def model_fingerprint(module: nn.Module) -> str:
    """Return the fingerprint of a module: 32 hexadecimal digits over names, shapes and values of its state.

    A float32 model and its float64 copy have the same fingerprint.
    """
    head = {"family": module.family, "config": module.config()} if isinstance(module, GenerativeModel) else None
    return fingerprint_arrays(((name, _to_numpy(t)) for name, t in sorted(module.state_dict().items())), head)


def _to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    value = tensor.detach().cpu()
    return (value.double() if value.dtype == torch.bfloat16 else value).numpy()


def _family(name: str) -> type[GenerativeModel]:
    if name not in FAMILIES:
        raise SettingError(f"unknown model family '{name}'; known families: {', '.join(sorted(FAMILIES))}")
    module, _, attribute = FAMILIES[name].partition(":")
    family: type[GenerativeModel] = getattr(importlib.import_module(module), attribute)
    return family


def make_model(family: str, **config: Any) -> GenerativeModel:
    """Return a new, untrained model of a family; ``config`` are its constructor's arguments."""
    return _family(family)(**config)


def load_model(
    folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> GenerativeModel:
    """Load a model that :meth:`GenerativeModel.save` wrote, in eval mode.

    Args:
        folder: the saved folder.
        device: where the parameters go.
        dtype: floating dtype of the parameters.

    Raises:
        ModelError: the folder is no saved model, a file is truncated, or its contents do not fit together.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file():
        raise ModelError(f"{folder} is not a saved model: it holds no model.json")
    head = read_json(folder / "model.json", ModelError)
    if head.get("format_version") != FORMAT_VERSION:
        raise CardMismatchError(
            "format_version", FORMAT_VERSION, head.get("format_version"), "save the model with this version"
        )
    model = make_model(head["family"], **_tuples(head["config"]))
    _load_state(model, folder / "model.safetensors")
    if model_fingerprint(model) != head["fingerprint"]:
        raise ModelError(f"{folder}: model.safetensors does not belong to model.json; the copy is incomplete")
    model.card = ModelCard(**{f.name: head["card"][f.name] for f in fields(ModelCard) if f.name in head["card"]})
    if (folder / "train_keys.safetensors").is_file():
        model.train_keys = read_arrays(folder / "train_keys.safetensors", ModelError)[0]["keys"]
    return model.to(device=device, dtype=dtype).eval()


def _tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}


def _load_state(model: GenerativeModel, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist; the copy of the model is incomplete") from None
    except (SafetensorError, OSError) as cause:
        raise ModelError(f"{path} is truncated or not a safetensors file ({cause}); copy the model again") from None
    except RuntimeError as cause:
        raise ModelError(f"{path} does not fit its model.json: {str(cause).splitlines()[0]}") from None


def require_not_trained_on(model: nn.Module, keys: KeyArray, purpose: str) -> None:
    """Raise :class:`DataError` when any of the samples, given by their keys, was in the model's training set.

    Args:
        model: a model; without ``train_keys`` nothing can be checked and nothing is raised.
        keys: keys of the samples, any shape.
        purpose: what they were wanted for, named in the message.
    """
    train_keys = getattr(model, "train_keys", None)
    if train_keys is None:
        return
    count = int(np.isin(keys, train_keys).sum())
    if count:
        raise DataError(
            f"{count} of {keys.size} samples given to {purpose} are samples the model was trained on, where its "
            "gradients are untypically small; give held-out samples, or ask for it with allow_training_samples"
        )
