"""What is judged: a module, how to ask it for log p, and what it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.core.own_code import import_named
from fisherscope.models.base import HUB, GenerativeModel, load_model, model_fingerprint
from fisherscope.models.zoo import PREFIX as ZOO

LogProb = Callable[..., Tensor]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Target:
    """A model as the pipeline sees it.

    Attributes:
        module: the model.
        log_prob: callable ``(module, x) -> (n,)`` in nats; None for a :class:`GenerativeModel`, which has its own.
        name: what the user called it.
    """

    module: nn.Module
    log_prob: LogProb | None
    name: str

    def __post_init__(self) -> None:
        """Check that log p can be had, and that there are parameters to differentiate by."""
        if self.log_prob is None and not callable(getattr(self.module, "log_prob", None)):
            raise ModelError(
                f"{self.name} has no log_prob method; give log_prob, a callable (module, x) -> (n,) log-likelihoods"
            )
        if not any(p.requires_grad for p in self.module.parameters()):
            raise ModelError(f"{self.name} has no parameter that requires a gradient; unfreeze those to be looked at")

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the parameters."""
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    @property
    def dtype_name(self) -> str:
        """The dtype as cards write it, e.g. ``float32``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def data_shape(self) -> tuple[int, ...] | None:
        """Shape of one sample where the model says it."""
        return getattr(self.module, "data_shape", None)

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Range of a sample's values where the model says it."""
        return getattr(self.module, "value_range", None)

    @property
    def window(self) -> int | None:
        """Bytes of the windows that a text is cut into, where the model says that it reads such."""
        shape = self.data_shape
        return shape[0] if shape is not None and len(shape) == 1 and self.value_range == (0.0, 255.0) else None

    def fingerprint(self) -> str:
        """Fingerprint of the module's parameters and buffers."""
        return model_fingerprint(self.module)


def parse_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a name."""
    if name not in _DTYPES:
        raise SettingError(f"unknown dtype '{name}'; expected {' or '.join(_DTYPES)}")
    return _DTYPES[name]


def require_served_dtype(target: Target) -> None:
    """Raise :class:`ModelError` for a model in a dtype that features are not computed in."""
    if target.dtype_name not in _DTYPES:
        raise ModelError(
            f"{target.name} has parameters of {target.dtype_name}, expected {' or '.join(_DTYPES)}: squared gradient "
            "norms leave the range of fewer bits; convert it, such as model.float()"
        )


def parse_device(name: str) -> torch.device:
    """Return the torch device of a name, checked to exist."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as cause:
        raise SettingError(f"device '{name}' cannot be used: {str(cause).splitlines()[0]}") from None
    return device


def load_target(
    spec: str | Path, *, device: str = "cpu", dtype: str = "float32", settings: Mapping[str, Any] | None = None
) -> Target:
    """Return the target for what the command line calls MODEL.

    Args:
        spec: whatever :func:`~fisherscope.models.base.load_model` takes (the folder of a saved model, ``zoo:NAME``, a
            saved diffusers pipeline or transformers model, ``hub:owner/name``), or ``package.module:factory``; the
            factory takes no argument and returns a :class:`GenerativeModel` or a pair (module, log_prob).
        device: where it goes.
        dtype: floating dtype of its parameters.
        settings: of a saved model, those that leave its parameters alone, see
            :func:`~fisherscope.models.base.load_model`.

    Raises:
        ModelError: there is no such model, or the factory returns something else.
    """
    text = str(spec)
    place, kind = parse_device(device), parse_dtype(dtype)
    named = text.startswith((ZOO, HUB))
    if named or Path(text).is_dir():
        model = load_model(text, device=place, dtype=kind, settings=settings)
        return Target(model, None, text if named else Path(text).name)
    if settings:
        raise SettingError(f"{text} is no saved model, whose {', '.join(settings)} could be set; set it in the factory")
    if ":" not in text:
        raise ModelError(
            f"'{text}' is no folder of a saved model, no {ZOO}NAME and no package.module:factory; check the path, or "
            "see the zoo with: fisherscope zoo"
        )
    made = _call_factory(text)
    module, log_prob = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{text} returned {type(made).__name__}, expected a GenerativeModel or (module, log_prob)")
    return Target(module.to(device=place, dtype=kind).eval(), log_prob, text)


def _call_factory(spec: str) -> Any:
    try:
        factory = import_named(spec)
    except (ImportError, AttributeError, ValueError) as cause:
        raise ModelError(f"model factory '{spec}' cannot be imported: {cause}") from None
    if not callable(factory):
        raise ModelError(f"{spec} is {type(factory).__name__}, expected a function that returns a model")
    try:
        inspect.signature(factory).bind()
    except TypeError as cause:
        raise ModelError(f"{spec} is to be called without arguments ({cause}); give them defaults") from None
    except ValueError:  # some built-in callables tell no signature
        pass
    return factory()


def as_target(model: nn.Module | Target | str | Path, log_prob: LogProb | None = None) -> Target:
    """Return the target for whatever Python code passes as a model; a module is taken as it is, where it is.

    Raises:
        ModelError: it is nothing of the kind, or there is no such saved model.
        SettingError: a ``log_prob`` came with something that has its own.
    """
    if log_prob is not None and not isinstance(model, nn.Module):
        raise SettingError(
            f"a log_prob was given with {type(model).__name__} '{getattr(model, 'name', model)}', which has its own; "
            "give it with a torch.nn.Module, or leave it out"
        )
    if isinstance(model, Target):
        return model
    if isinstance(model, (str, Path)):
        return load_target(model)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model is {type(model).__name__}, expected a torch.nn.Module, what load_target takes, or a Target"
        )
    name = model.card.name if isinstance(model, GenerativeModel) else ""
    return Target(model, log_prob, name or type(model).__name__)
