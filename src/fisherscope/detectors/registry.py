"""Detectors by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fisherscope.core.errors import SettingError
from fisherscope.core.own_code import import_named
from fisherscope.core.table import GLOBAL_SKETCH, SKETCH_KINDS
from fisherscope.detectors.base import Detector
from fisherscope.detectors.densities import density_names


@dataclass(frozen=True)
class _Entry:
    """Where a detector lives.

    Attributes:
        home: ``module:Class``.
        settings: its arguments.
        blocks: kind of block that another metric has in place of the detector's own, or None where that makes no
            sense.
    """

    home: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    blocks: str | None = None


_HOME: Final = "fisherscope.detectors"

_STANDARD: Final[Mapping[str, _Entry]] = {
    "fisher-dose": _Entry(f"{_HOME}.fisher_dose:FisherDose", blocks="metric"),
    "layerwise-gaussian": _Entry(f"{_HOME}.layerwise_gaussian:LayerwiseGaussian", blocks="metric"),
    "total-norm": _Entry(f"{_HOME}.total_norm:TotalNorm", blocks="metric"),
    "likelihood": _Entry(f"{_HOME}.likelihood:Likelihood"),
    "typicality": _Entry(f"{_HOME}.typicality:Typicality"),
    "pixel-mahalanobis": _Entry(f"{_HOME}.pixel_mahalanobis:PixelMahalanobis"),
}

_DOSE: Final[Mapping[str, _Entry]] = {
    "gradient-dose": _Entry(f"{_HOME}.fisher_dose:FisherDose", {"name": "gradient-dose", "codes": ()}, "metric"),
    "complexity-dose": _Entry(f"{_HOME}.complexity_dose:ComplexityDose"),
    "fisher-dose-exact": _Entry(f"{_HOME}.fisher_dose:FisherDose", {"name": "fisher-dose-exact", "block": "grad_norm"}),
}
"""The default without code lengths, without gradients, and on exact norms of the whole gradient."""

_LAYERWISE: Final[Mapping[str, _Entry]] = {
    f"layerwise-{density}": _Entry(
        f"{_HOME}.layerwise:Layerwise", {"density": density, "name": f"layerwise-{density}"}, "metric"
    )
    for density in density_names()
}

_RAO: Final[Mapping[str, _Entry]] = {
    "rao-sketch": _Entry(f"{_HOME}.rao:RaoSketch", blocks="sketch"),
    "rao-sketch-uncentred": _Entry(
        f"{_HOME}.rao:RaoSketch", {"name": "rao-sketch-uncentred", "centred": False}, "sketch"
    ),
    "rao-sketch-equalised": _Entry(f"{_HOME}.rao:RaoEqualised", blocks="layer_sketch"),
    "rao-layers": _Entry(f"{_HOME}.rao:RaoLayers", blocks="layer_sketch"),
    "rao-layers-normalised": _Entry(
        f"{_HOME}.rao:RaoLayers", {"name": "rao-layers-normalised", "normalised": True}, "layer_sketch"
    ),
}

_COMPLEXITY: Final[Mapping[str, _Entry]] = {
    f"input-complexity-{codec}": _Entry(f"{_HOME}.input_complexity:InputComplexity", {"codec": codec})
    for codec in ("png", "webp", "jpeg2000", "zlib")
}

_RIVALS: Final[Mapping[str, _Entry]] = {
    **_COMPLEXITY,
    "dose-kde": _Entry(f"{_HOME}.dose:DoseKde"),
    "dose-svm": _Entry(f"{_HOME}.dose:DoseSvm"),
    "waic": _Entry(f"{_HOME}.waic:Waic"),
    "likelihood-ratio": _Entry(f"{_HOME}.likelihood_ratio:LikelihoodRatio"),
    "likelihood-regret": _Entry(f"{_HOME}.likelihood_regret:LikelihoodRegret"),
    "local-intrinsic-dimension": _Entry(f"{_HOME}.intrinsic_dimension:LocalIntrinsicDimension"),
    "msma": _Entry(f"{_HOME}.gaussian_mixture:VectorMixture", {"name": "msma", "block": "score_norms"}),
    "diffpath-6d": _Entry(
        f"{_HOME}.gaussian_mixture:VectorMixture", {"name": "diffpath-6d", "block": "path_statistics"}
    ),
    "ddpm-ood-mse-ssim": _Entry(f"{_HOME}.ddpm_ood:DdpmOod"),
    "scoped": _Entry(f"{_HOME}.scoped:Scoped"),
    "typicality-fisher": _Entry(f"{_HOME}.typicality_fisher:TypicalityFisher", blocks="metric"),
}

_BUILT_IN: Final[Mapping[str, _Entry]] = {**_STANDARD, **_DOSE, **_LAYERWISE, **_RAO, **_RIVALS}

_COMBINED: Final[Mapping[str, str]] = {"combined": "fisher", "combined-cauchy": "cauchy"}
"""Rules by the word in front of the members' names."""

DEFAULT_DETECTOR: Final = "fisher-dose"
"""Chosen on development pairs alone; the evidence is in docs/study.md."""

STANDARD_DETECTORS: Final = tuple(_STANDARD)
"""What an evaluation runs when it is not told."""


def detector_names() -> tuple[str, ...]:
    """Return the names of the built-in detectors, the default one first."""
    return tuple(_BUILT_IN)


def is_built_in(name: str) -> bool:
    """Return whether :func:`make_detector` makes this name without importing anything of the user's."""
    rule, _, members = name.partition(":")
    if rule in _COMBINED:
        return all(is_built_in(member) for member in members.split("+"))
    plain, at, _ = name.partition("@")
    return plain in _BUILT_IN and (not at or _BUILT_IN[plain].blocks is not None)


def make_detector(name: str) -> Detector:
    """Return a new detector.

    Args:
        name: a built-in name; the same with ``@METRIC`` to read gradients measured in another Fisher metric
            (``layerwise-upper@diagonal``, ``rao-sketch@whitened``); ``package.module:Class`` of your own
            :class:`Detector`; or several of these as one, ``combined:A+B`` (Fisher's statistic of their p-values) and
            ``combined-cauchy:A+B+C``, see :class:`~fisherscope.detectors.combined.Combined`.

    Raises:
        SettingError: nothing of that name exists, or it is no detector.
    """
    rule, _, members = name.partition(":")
    if rule in _COMBINED:
        return _combined(name, _COMBINED[rule], members.split("+"))
    plain, at, metric = name.partition("@")
    entry = _BUILT_IN.get(plain)
    if entry is not None:
        own = {} if not at else {"name": name, "block": f"{_metric_blocks(plain, entry, metric)}:{metric}"}
        made: Detector = _built_in(entry.home)(**{**entry.settings, **own})
        return made
    if ":" not in name:
        raise SettingError(
            f"unknown detector '{name}'; known: {', '.join(_BUILT_IN)}, or your own as package.module:Class, "
            "or several as combined:A+B"
        )
    kind = _imported(name)
    if not (isinstance(kind, type) and issubclass(kind, Detector)):
        raise SettingError(f"'{name}' is {kind!r}, expected a subclass of fisherscope.Detector")
    try:
        return kind()
    except TypeError as cause:
        raise SettingError(f"'{name}' cannot be made without arguments: {cause}") from None


def require_settings_of_name(detector: Detector) -> Detector:
    """Return the detector; raise :class:`SettingError` if it has a built-in name and is not what the name makes.

    A file keeps the name and what was learnt: read again, such a detector would be another one.
    """
    if is_built_in(detector.name) and not _same_settings(detector, make_detector(detector.name)):
        raise SettingError(
            f"the detector is called '{detector.name}' but is not what that name makes (class or settings differ), and "
            "a saved guard keeps the name alone; give it a name of its own and pass it as detector= to fisherscope.load"
        )
    return detector


def _same_settings(one: Any, other: Any) -> bool:
    """Return whether two detectors, or parts of them, differ in nothing but what they have learnt."""
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same_settings, one, other))
    if not hasattr(one, "__dict__"):
        return bool(one == other)
    mine, theirs = ({k: v for k, v in vars(part).items() if not k.endswith("_")} for part in (one, other))
    return mine.keys() == theirs.keys() and all(_same_settings(v, theirs[k]) for k, v in mine.items())


def _combined(name: str, rule: str, members: Sequence[str]) -> Detector:
    if len(members) < 2 or any(not m or m.partition(":")[0] in _COMBINED for m in members):
        raise SettingError(
            f"'{name}' combines {members}, expected two or more detectors that are not combined themselves, such as "
            "combined:fisher-dose+pixel-mahalanobis"
        )
    made: Detector = _built_in(f"{_HOME}.combined:Combined")([make_detector(m) for m in members], rule, name)
    return made


def _metric_blocks(plain: str, entry: _Entry, metric: str) -> str:
    if entry.blocks is None:
        able = [n for n, e in _BUILT_IN.items() if e.blocks is not None]
        raise SettingError(f"{plain} takes no metric, @{metric} was asked for; those that do: {', '.join(able)}")
    if entry.blocks == "metric":
        if metric == GLOBAL_SKETCH:
            raise SettingError(f"{plain} reads numbers of layers, '{metric}' is a sketch of the whole gradient alone")
        # The layers' numbers in a sketch's metric are norms of projected gradients, not quadratic forms.
        return "sketch_norm" if metric in SKETCH_KINDS else entry.blocks
    sketches = (*SKETCH_KINDS, GLOBAL_SKETCH) if entry.blocks == "sketch" else SKETCH_KINDS
    if ":" not in metric and metric not in sketches:
        raise SettingError(
            f"{plain} reads sketches, of which '{metric}' has none for it; the metrics that do: {', '.join(sketches)}"
        )
    return entry.blocks


def _built_in(home: str) -> Any:
    module, _, attribute = home.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _imported(name: str) -> Any:
    try:
        return import_named(name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise SettingError(f"detector '{name}' cannot be imported: {cause}") from None
