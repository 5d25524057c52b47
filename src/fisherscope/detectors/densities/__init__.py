"""Densities over the layers' numbers, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from fisherscope.core.errors import SettingError
from fisherscope.detectors.densities.base import LayerDensity, SmoothDensity

__all__ = ["LayerDensity", "SmoothDensity", "density_names", "make_density"]

_HOME: Final = "fisherscope.detectors.densities"

_DENSITIES: Final[Mapping[str, tuple[str, str, Mapping[str, Any]]]] = {
    "upper": ("normals", "UpperTail", {}),
    "fisher": ("normals", "FisherMethod", {"two_sided": True}),
    "fisher-upper": ("normals", "FisherMethod", {"two_sided": False}),
    "chi2": ("chi_square", "ChiSquare", {"by_size": False, "two_sided": True}),
    "chi2-upper": ("chi_square", "ChiSquare", {"by_size": False, "two_sided": False}),
    "chi2-size": ("chi_square", "ChiSquare", {"by_size": True, "two_sided": True}),
    "chi2-size-upper": ("chi_square", "ChiSquare", {"by_size": True, "two_sided": False}),
    "ledoit-wolf": ("normals", "LedoitWolf", {}),
    "mixture": ("components", "Mixture", {}),
    "kde": ("components", "KernelDensity", {}),
    "svm": ("one_class", "OneClassSvm", {}),
    "forest": ("one_class", "Forest", {}),
    "normalised-sum": ("sums", "NormalisedSum", {}),
}


def density_names() -> tuple[str, ...]:
    """Return the names of the built-in densities."""
    return tuple(_DENSITIES)


def make_density(name: str) -> LayerDensity:
    """Return the density of a name; an unknown one is a :class:`SettingError`."""
    if name not in _DENSITIES:
        raise SettingError(f"unknown density '{name}'; known: {', '.join(_DENSITIES)}")
    module, kind, settings = _DENSITIES[name]
    made: LayerDensity = getattr(importlib.import_module(f"{_HOME}.{module}"), kind)(**settings)
    return made
