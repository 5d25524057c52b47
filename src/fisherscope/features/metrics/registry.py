"""Metrics by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fisherscope.core.errors import SettingError
from fisherscope.core.own_code import import_named
from fisherscope.core.table import GLOBAL_SKETCH, SKETCH_KINDS
from fisherscope.features.metrics.base import FisherMetric
from fisherscope.features.metrics.diagonal import EntrywiseMetric
from fisherscope.features.metrics.kronecker import Ekfac, Kfac
from fisherscope.features.metrics.low_rank import LowRank
from fisherscope.features.metrics.raw import SketchSettings
from fisherscope.features.metrics.sketched import GaussianSketch, Sketched

UNCENTRED: Final = "-uncentred"

_QUADRATIC: Final[Mapping[str, Callable[[str, bool], FisherMetric]]] = {
    "identity": lambda name, centred: EntrywiseMetric(name, whitened=False, centred=centred),
    "diagonal": lambda name, centred: EntrywiseMetric(name, whitened=True, centred=centred),
    "kfac": lambda name, centred: Kfac(name, centred=centred),
    "ekfac": lambda name, centred: Ekfac(name, centred=centred),
    "low-rank": lambda name, centred: LowRank(name, per_layer=True, centred=centred),
    "low-rank-global": lambda name, centred: LowRank(name, per_layer=False, centred=centred),
}


def metric_names() -> tuple[str, ...]:
    """Return the names of all metrics: those measured by quadratic forms, then the sketches.

    A quadratic one subtracts the fit samples' mean gradient; its name with ``-uncentred`` does not. Of a sketch the
    detector decides.
    """
    quadratic = [name + suffix for name in _QUADRATIC for suffix in ("", UNCENTRED)]
    return (*quadratic, GLOBAL_SKETCH, *SKETCH_KINDS)


def make_metric(name: str, sketch: SketchSettings | None = None) -> FisherMetric:
    """Return a new, unfitted metric.

    Args:
        name: see :func:`metric_names`; or ``package.module:Class`` of your own :class:`FisherMetric`, which is called
            with this name.
        sketch: sizes and projection seed, for the sketches.

    Raises:
        SettingError: nothing of that name exists, or it is no metric.
    """
    plain = name.removesuffix(UNCENTRED)
    if plain in _QUADRATIC:
        return _QUADRATIC[plain](name, plain == name)
    if name == GLOBAL_SKETCH:
        return GaussianSketch(name, sketch)
    if name in SKETCH_KINDS:
        return Sketched(name, name, sketch)
    if ":" not in name:
        raise SettingError(
            f"unknown metric '{name}'; known: {', '.join(metric_names())}, or your own as package.module:Class"
        )
    return _own(name)


def is_built_in_metric(name: str) -> bool:
    """Return whether :func:`make_metric` makes this name without importing anything of the user's."""
    return name in metric_names()


def require_own_name(metric: FisherMetric) -> None:
    """Raise :class:`SettingError` for a metric of one's own under a built-in name: a file would bring back another."""
    if is_built_in_metric(metric.name) and type(metric) is not type(make_metric(metric.name)):
        raise SettingError(
            f"the metric of class {type(metric).__name__} is called '{metric.name}', as one of the library is; give it "
            "a name of its own"
        )


def _own(name: str) -> FisherMetric:
    try:
        kind = import_named(name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise SettingError(f"metric '{name}' cannot be imported: {cause}") from None
    if not (isinstance(kind, type) and issubclass(kind, FisherMetric)):
        raise SettingError(f"'{name}' is {kind!r}, expected a subclass of fisherscope.features.metrics.FisherMetric")
    make: Callable[[str], FisherMetric] = kind
    try:
        metric = make(name)
    except TypeError as cause:
        raise SettingError(f"'{name}' cannot be made of its name alone: {cause}") from None
    if metric.name != name:
        raise SettingError(
            f"'{name}' made a metric called '{metric.name}', expected it to keep the name that it is called with"
        )
    return metric
