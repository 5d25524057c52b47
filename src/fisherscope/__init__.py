"""Which inputs has a deep generative model never learnt? Novelty from gradients in parameter space.

The front door: :func:`fit` and :func:`load` make a :class:`Guard`; :func:`gradient_norms` and
:func:`gradient_sketch` are the features themselves; :func:`evaluate` compares detectors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fisherscope.core.errors import (
        CardMismatchError,
        DataError,
        FisherscopeError,
        ModelError,
        NotFittedError,
        SettingError,
    )
    from fisherscope.core.table import FeatureTable
    from fisherscope.data import Samples, load_samples
    from fisherscope.detectors import ConformalCalibration, Detector, detector_names, make_detector
    from fisherscope.features.gradients import gradient_norms, gradient_sketch, rules_report
    from fisherscope.models.base import GenerativeModel, load_model, make_model
    from fisherscope.pipeline.evaluation import evaluate
    from fisherscope.pipeline.explanation import Explanation
    from fisherscope.pipeline.fitting import fit
    from fisherscope.pipeline.guard import Guard, Verdict
    from fisherscope.pipeline.guard_files import load
    from fisherscope.pipeline.ranking import rank_groups
    from fisherscope.pipeline.saliency import ExplainSettings

_HOMES = {
    "fisherscope.core.errors": (
        "CardMismatchError",
        "DataError",
        "FisherscopeError",
        "ModelError",
        "NotFittedError",
        "SettingError",
    ),
    "fisherscope.core.table": ("FeatureTable",),
    "fisherscope.data": ("Samples", "load_samples"),
    "fisherscope.detectors": ("ConformalCalibration", "Detector", "detector_names", "make_detector"),
    "fisherscope.features.gradients": ("gradient_norms", "gradient_sketch", "rules_report"),
    "fisherscope.models.base": ("GenerativeModel", "load_model", "make_model"),
    "fisherscope.pipeline.evaluation": ("evaluate",),
    "fisherscope.pipeline.explanation": ("Explanation",),
    "fisherscope.pipeline.fitting": ("fit",),
    "fisherscope.pipeline.guard": ("Guard", "Verdict"),
    "fisherscope.pipeline.guard_files": ("load",),
    "fisherscope.pipeline.ranking": ("rank_groups",),
    "fisherscope.pipeline.saliency": ("ExplainSettings",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CardMismatchError",
    "ConformalCalibration",
    "DataError",
    "Detector",
    "ExplainSettings",
    "Explanation",
    "FeatureTable",
    "FisherscopeError",
    "GenerativeModel",
    "Guard",
    "ModelError",
    "NotFittedError",
    "Samples",
    "SettingError",
    "Verdict",
    "detector_names",
    "evaluate",
    "fit",
    "gradient_norms",
    "gradient_sketch",
    "load",
    "load_model",
    "load_samples",
    "make_detector",
    "make_model",
    "rank_groups",
    "rules_report",
]


def __getattr__(name: str) -> Any:
    # Imported when first used: `import fisherscope` does not pull in torch and scikit-learn.
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fisherscope' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
