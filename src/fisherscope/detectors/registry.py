"""Detectors by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fisherscope.core.errors import SettingError
from fisherscope.detectors.base import Detector
from fisherscope.detectors.densities import density_names


@dataclass(frozen=True)
class _Entry:
    home: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_HOME: Final = "fisherscope.detectors"

_STANDARD: Final[Mapping[str, _Entry]] = {
    "layerwise-gaussian": _Entry(f"{_HOME}.layerwise_gaussian:LayerwiseGaussian"),
    "total-norm": _Entry(f"{_HOME}.total_norm:TotalNorm"),
    "likelihood": _Entry(f"{_HOME}.likelihood:Likelihood"),
    "typicality": _Entry(f"{_HOME}.typicality:Typicality"),
    "pixel-mahalanobis": _Entry(f"{_HOME}.pixel_mahalanobis:PixelMahalanobis"),
}

_RAO: Final[Mapping[str, _Entry]] = {
    "rao-sketch": _Entry(f"{_HOME}.rao:RaoSketch"),
    "rao-sketch-uncentred": _Entry(f"{_HOME}.rao:RaoSketch", {"name": "rao-sketch-uncentred", "centred": False}),
    "rao-sketch-equalised": _Entry(f"{_HOME}.rao:RaoEqualised"),
    "rao-layers": _Entry(f"{_HOME}.rao:RaoLayers"),
    "rao-layers-normalised": _Entry(f"{_HOME}.rao:RaoLayers", {"name": "rao-layers-normalised", "normalised": True}),
}

_LAYERWISE: Final[Mapping[str, _Entry]] = {
    f"layerwise-{density}": _Entry(f"{_HOME}.layerwise:Layerwise", {"density": density, "name": f"layerwise-{density}"})
    for density in density_names()
}

_BUILT_IN: Final[Mapping[str, _Entry]] = {**_STANDARD, **_LAYERWISE, **_RAO}

DEFAULT_DETECTOR: Final = "layerwise-gaussian"


def detector_names() -> tuple[str, ...]:
    """Return the names of the standard detectors, the default one first."""
    return tuple(_STANDARD)


def make_detector(name: str) -> Detector:
    """Return a new detector.

    Args:
        name: a built-in name, or ``package.module:Class`` of your own :class:`Detector`.

    Raises:
        SettingError: nothing of that name exists, or it is no detector.
    """
    entry = _BUILT_IN.get(name)
    if entry is not None:
        made: Detector = _imported(name, entry.home)(**entry.settings)
        return made
    if ":" not in name:
        raise SettingError(
            f"unknown detector '{name}'; known: {', '.join(_BUILT_IN)}, or your own as package.module:Class"
        )
    kind = _imported(name, name)
    if not (isinstance(kind, type) and issubclass(kind, Detector)):
        raise SettingError(f"'{name}' is {kind!r}, expected a subclass of fisherscope.Detector")
    return kind()


def _imported(name: str, home: str) -> Any:
    module, _, attribute = home.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as cause:
        raise SettingError(f"detector '{name}' cannot be imported: {cause}") from None
