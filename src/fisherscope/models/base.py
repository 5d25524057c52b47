"""The contract that every generative model keeps, and the files it lives in."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, TypeGuard
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fisherscope.core.errors import DataError, FisherscopeError, ModelError, SettingError
from fisherscope.core.keys import KeyArray, among, fingerprint_arrays
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.models.files import (
    STATE,
    Head,
    ModelCard,
    load_state,
    read_head,
    stored_state,
    write_head,
    write_state,
)
from fisherscope.models.zoo import PREFIX, zoo_folder

FAMILIES: Final[Mapping[str, str]] = {
    "diffusers": "fisherscope.models.adapters.diffusers:DiffusersModel",
    "diffusion": "fisherscope.models.diffusion:Diffusion",
    "glow": "fisherscope.models.glow:Glow",
    "language": "fisherscope.models.language:ByteTransformer",
    "pixelcnn": "fisherscope.models.pixelcnn:PixelCNN",
    "tabular": "fisherscope.models.tabular:TabularFlow",
    "transformers": "fisherscope.models.adapters.transformers:TransformersModel",
    "vae": "fisherscope.models.vae:VAE",
}
"""Model families by name, each as ``module:class``, imported only when asked for."""

HUB: Final = "hub:"
"""Before the name of a model on the Hugging Face hub: a mistyped folder never becomes a download."""

_SIGNS: Final = 16
_FINGERPRINTS: Final[WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], str]]] = WeakKeyDictionary()


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
            x: samples, shape ``(n, *data_shape)``.
            seed: seed of the per-sample noise.
            keys: keys of the original samples, (n,) uint64; computed from x when None.
        """

    @abstractmethod
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n samples of the model, shape ``(n, *data_shape)``, in the dtype of the data (uint8 for images)."""

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

    def check_shape(self, x: Tensor) -> None:
        """Raise a :class:`ModelError` unless x has shape ``(n, *data_shape)``."""
        if tuple(x.shape[1:]) != self.data_shape:
            raise ModelError(
                f"x has shape {tuple(x.shape)}, the {self.family} expects (n, {', '.join(map(str, self.data_shape))})"
            )

    def check_batch(self, x: Tensor) -> Tensor:
        """Return x in the parameters' dtype and device; a wrong shape is a :class:`ModelError`."""
        self.check_shape(x)
        like = next(self.parameters())
        return x.to(device=like.device, dtype=like.dtype)

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write ``model.safetensors``, ``model.json`` and ``train_keys.safetensors``, each atomically.

        Args:
            folder: where; made if it does not exist.
            dtype: floating dtype of the file, e.g. float16 to halve it; by default that of the parameters.

        Raises:
            ModelError: a parameter is NaN or inf, or too large for ``dtype``.
        """
        folder = Path(folder)
        state = stored_state(self, dtype)
        write_state(folder, state)
        keys_path = folder / "train_keys.safetensors"
        if self.train_keys is not None:
            write_arrays(keys_path, {"keys": self.train_keys}, {})
        else:
            keys_path.unlink(missing_ok=True)
        write_head(folder, Head(self.family, self.config(), _fingerprint(self, state), self.card))


def is_of_library(module: nn.Module) -> TypeGuard[GenerativeModel]:
    """Return whether a saved copy of a module can be loaded without its class: it is of a family, not a subclass."""
    return (
        isinstance(module, GenerativeModel)
        and module.family in FAMILIES
        and type(module) is family_class(module.family)
    )


def model_fingerprint(module: nn.Module) -> str:
    """Return the fingerprint of a module: 32 hexadecimal digits over names, shapes and values of its state.

    A float32 model and its float64 copy have the same fingerprint. All values are read once and again when a tensor
    has changed: that of a large model takes longer than to judge a sample.
    """
    state = {name: _dense(name, value) for name, value in module.state_dict().items()}
    if any(t.is_inference() for t in state.values()):  # such tensors count no versions
        return _fingerprint(module, state)
    now = (_head(module), *(_signs(name, t) for name, t in state.items()))
    known = _FINGERPRINTS.get(module)
    if known is None or known[0] != now:
        known = _FINGERPRINTS[module] = (now, _fingerprint(module, state))
    return known[1]


def _dense(name: str, value: Any) -> Tensor:
    """Return an entry of a state as a plain tensor of the same values."""
    if not isinstance(value, Tensor):
        raise ModelError(
            f"the model's state holds {name}, a {type(value).__name__}, by which it cannot be known again; keep "
            "tensors alone in state_dict (no get_extra_state)"
        )
    if value.is_quantized:
        return value.dequantize()
    return value if value.layout == torch.strided else value.to_dense()


def _signs(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Return what differs once a tensor has changed."""
    # writing through .data counts no version, but seldom spares these entries
    some = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // _SIGNS)]
    return name, tensor.data_ptr(), tensor._version, tensor.shape, tensor.dtype, _to_numpy(some).tobytes()


def _fingerprint(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    return fingerprint_arrays(((name, _to_numpy(t)) for name, t in sorted(state.items())), _head(module))


def _head(module: nn.Module) -> dict[str, Any] | None:
    return {"family": module.family, "config": module.config()} if isinstance(module, GenerativeModel) else None


def _to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    value = tensor.detach().cpu()
    # numpy has no bfloat16 and no float of 8 bits
    known = not value.is_floating_point() or value.dtype in (torch.float16, torch.float32, torch.float64)
    return (value if known else value.double()).numpy()


def family_class(name: str) -> type[GenerativeModel]:
    """Return the class of a model family; an unknown one is a :class:`SettingError` that lists the known ones."""
    if name not in FAMILIES:
        raise SettingError(_unknown_family(name))
    module, _, attribute = FAMILIES[name].partition(":")
    family: type[GenerativeModel] = getattr(importlib.import_module(module), attribute)
    return family


def _unknown_family(name: str) -> str:
    return f"unknown model family '{name}'; known families: {', '.join(sorted(FAMILIES))}"


def make_model(family: str, **config: Any) -> GenerativeModel:
    """Return a new, untrained model of a family; ``config`` are its constructor's arguments.

    Raises:
        SettingError: there is no such family or setting, or a setting is of another type.
    """
    return _made(family_class(family), config)


def _made(kind: type[GenerativeModel], config: Mapping[str, Any]) -> GenerativeModel:
    family = kind.family
    known = list(inspect.signature(kind).parameters)
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise SettingError(f"{family} has no setting {', '.join(unknown)}; its settings: {', '.join(known)}")
    try:
        return kind(**config)
    except FisherscopeError:
        raise
    except (TypeError, ValueError) as cause:
        given = ", ".join(f"{name}={value!r}" for name, value in config.items())
        raise SettingError(f"{family} cannot be made with {given}: {cause}; check the types of its settings") from None


def load_model(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    settings: Mapping[str, Any] | None = None,
    family: type[GenerativeModel] | None = None,
) -> GenerativeModel:
    """Load a model in eval mode.

    Args:
        folder: a folder that :meth:`GenerativeModel.save` wrote, ``zoo:NAME``, a saved diffusers DDPM pipeline, a
            transformers causal language model, or ``hub:owner/name``, such a one on the Hugging Face hub.
        device: where the parameters go.
        dtype: floating dtype of the parameters.
        settings: constructor's arguments to change that leave the parameters alone: a diffusion's timesteps, a VAE's
            importance_samples, a language model's window.
        family: class of the saved model, needed only for a family of your own: a file does not decide what is imported.

    Raises:
        ModelError: the folder is no saved model, a file is truncated, or its contents do not fit together.
    """
    model = _load(str(folder), dict(settings or {}), family)
    return model.to(device=device, dtype=dtype).eval()


def _load(name: str, changes: Mapping[str, Any], family: type[GenerativeModel] | None) -> GenerativeModel:
    folder = zoo_folder(name) if name.startswith(PREFIX) else Path(name)
    if not name.startswith(HUB) and (folder / "model.json").is_file():
        return _load_saved(folder, changes, family)
    if not name.startswith(HUB) and (folder / "model_index.json").is_file():
        from fisherscope.models.adapters.diffusers import DiffusersModel

        return DiffusersModel.from_pipeline(folder, **_known(changes, ("timesteps", "weight", "draws")))
    if name.startswith(HUB) or (folder / "config.json").is_file():
        from fisherscope.models.adapters.transformers import TransformersModel

        return TransformersModel.from_pretrained(name.removeprefix(HUB), **_known(changes, ("window", "start")))
    if (folder / STATE).is_file():
        raise ModelError(
            f"{folder} holds a training that has not ended; repeat the command that began it, with --resume"
        )
    raise ModelError(
        f"{folder} is not a saved model: it holds no model.json, nor the model_index.json of a diffusers pipeline "
        "or the config.json of a transformers model"
    )


def _known(changes: Mapping[str, Any], known: tuple[str, ...]) -> Mapping[str, Any]:
    if unknown := sorted(set(changes) - set(known)):
        raise SettingError(f"this model has no setting {', '.join(unknown)}; its settings: {', '.join(known)}")
    return changes


def _load_saved(folder: Path, changes: Mapping[str, Any], family: type[GenerativeModel] | None) -> GenerativeModel:
    head = read_head(folder)
    if family is not None and family.family != head.family:
        raise ModelError(f"{folder} holds a model of family '{head.family}', {family.__name__} is '{family.family}'")
    if family is None and head.family not in FAMILIES:
        raise SettingError(
            f"{_unknown_family(head.family)}; {folder} may hold one of your own: read it in Python with "
            "load_model(folder, family=Class), on the command line by a package.module:factory that does so"
        )
    kind = family or family_class(head.family)
    try:
        model = _made(kind, head.config)
    except SettingError as cause:
        raise ModelError(f"{folder / 'model.json'} describes no {head.family}: {cause}") from None
    load_state(model, folder)
    if model_fingerprint(model) != head.fingerprint:
        raise ModelError(f"{folder}: model.safetensors does not belong to model.json; the copy is incomplete")
    model.card = head.card
    if (folder / "train_keys.safetensors").is_file():
        model.train_keys = read_arrays(folder / "train_keys.safetensors", ModelError)[0]["keys"]
    return _changed(model, changes) if changes else model


def _changed(model: GenerativeModel, changes: Mapping[str, Any]) -> GenerativeModel:
    """Return the model with other settings and the same parameters."""
    other = _made(type(model), model.config() | dict(changes))
    try:
        other.load_state_dict(model.state_dict())
    except RuntimeError as cause:
        raise SettingError(
            f"{', '.join(changes)} cannot be changed after training: {str(cause).splitlines()[0]}"
        ) from None
    other.card, other.train_keys = model.card, model.train_keys
    return other


def trained_on(model: nn.Module, keys: KeyArray) -> NDArray[np.bool_]:
    """Return which of the samples, given by their keys, were in a model's training set, in the shape of the keys.

    None of them where the model has no ``train_keys``: then nothing is known.
    """
    train_keys = getattr(model, "train_keys", None)
    return among(keys, np.empty(0, np.uint64) if train_keys is None else train_keys)


def require_not_trained_on(model: nn.Module, keys: KeyArray, purpose: str) -> None:
    """Raise :class:`DataError` when any of the samples, given by their keys, was in the model's training set.

    Args:
        model: a model; without ``train_keys`` nothing can be checked and nothing is raised.
        keys: keys of the samples, any shape.
        purpose: what they were wanted for, named in the message.
    """
    count = int(trained_on(model, keys).sum())
    if count:
        raise DataError(
            f"{count} of {keys.size} samples given to {purpose} are samples the model was trained on, where its "
            "gradients are untypically small; give held-out samples, or have them accepted by fit, rank, update or "
            "evaluate (--allow-training-samples, in Python allow_training_samples=True)"
        )
