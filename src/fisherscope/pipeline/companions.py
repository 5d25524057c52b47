"""Further models beside the one that is judged: given by name, checked, saved and loaded with a guard."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import nn

from fisherscope.core.errors import CardMismatchError, ModelError, SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.features.companions import Companion
from fisherscope.models.base import is_of_library, load_model, require_not_trained_on
from fisherscope.pipeline.target import Target, as_target, load_target, parse_dtype

Given = nn.Module | Target | str | Path

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def as_companions(given: Mapping[str, Given] | None, target: Target) -> tuple[Companion, ...]:
    """Return the companions of a model.

    Args:
        given: models by name, as :func:`fisherscope.fit` takes them; ``background`` is the likelihood ratio's.
        target: the model that is judged.

    Raises:
        SettingError: a name that cannot be a file's.
        ModelError: another shape of samples or another dtype than the model's.
    """
    return tuple(_checked(_require_name(name), as_target(model), target) for name, model in (given or {}).items())


def load_companions(pairs: Iterable[str], *, device: str = "cpu", dtype: str = "float32") -> dict[str, Target]:
    """Return the models of ``NAME=MODEL`` texts by name; MODEL is what :func:`load_target` takes."""
    found: dict[str, Target] = {}
    for pair in pairs:
        name, equals, model = pair.partition("=")
        if not equals or name in found:
            raise SettingError(f"--companion {pair}: expected NAME=MODEL, every name once, such as background=runs/bg")
        found[name] = load_target(model, device=device, dtype=dtype)
    return found


def _require_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name == "model":
        raise SettingError(
            f"a companion is called '{name}', expected letters, digits, '-' and '_' ('model' is the model itself)"
        )
    return name


def _checked(name: str, companion: Target, target: Target) -> Companion:
    for what in ("data_shape", "dtype_name"):
        mine, theirs = getattr(target, what), getattr(companion, what)
        if None not in (mine, theirs) and mine != theirs:
            raise ModelError(f"companion '{name}' has {what} {theirs}, the model {mine}; they must agree")
    return Companion(name, companion.module, companion.log_prob)


def require_held_out(target: Target, companions: Sequence[Companion], keys: KeyArray, purpose: str) -> None:
    """Raise :class:`DataError` when the model or a companion was trained on any of the samples.

    Args:
        target: the model.
        companions: further models.
        keys: keys of the samples, any shape.
        purpose: what they were wanted for, named in the message.
    """
    require_not_trained_on(target.module, keys, purpose)
    for companion in companions:
        require_not_trained_on(companion.module, keys, f"{purpose}, with companion '{companion.name}'")


def save_companions(companions: Sequence[Companion], folder: Path) -> dict[str, str]:
    """Save those that are of a family of the library; return the fingerprints of all, by name."""
    for companion in companions:
        module = companion.module
        if is_of_library(module) and companion.log_prob is None:
            module.save(folder / "companions" / companion.name)
    return {companion.name: companion.fingerprint() for companion in companions}


def restore_companions(
    folder: Path, fingerprints: Mapping[str, str], given: Mapping[str, Any] | None, target: Target
) -> tuple[Companion, ...]:
    """Return the companions of a saved guard: those given, the others as they were saved along.

    Raises:
        SettingError: one is given that the guard does not have.
        ModelError: one was neither given nor saved.
        CardMismatchError: one is not the model it was at the fit.
    """
    unknown = sorted(set(given or {}) - set(fingerprints))
    if unknown:
        raise SettingError(
            f"the guard has no companion {', '.join(unknown)}; it has {', '.join(fingerprints) or 'none'}"
        )
    models = {name: (given or {}).get(name) or _saved(folder, name, target) for name in fingerprints}
    companions = as_companions(models, target)
    for companion in companions:
        expected, found = fingerprints[companion.name], companion.fingerprint()
        if expected != found:
            raise CardMismatchError(f"companion {companion.name}", expected, found, "give the model of the fit")
    return companions


def _saved(folder: Path, name: str, target: Target) -> Target:
    place = folder / "companions" / _require_name(name)
    if not (place / "model.json").is_file():
        raise ModelError(
            f"the companion '{name}' is a module of your own; pass it as companions={{'{name}': ...}} (on the command "
            f"line: --companion {name}=package.module:factory)"
        )
    return Target(load_model(place, device=target.device, dtype=parse_dtype(target.dtype_name)), None, name)
