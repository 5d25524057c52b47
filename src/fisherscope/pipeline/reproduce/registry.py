"""Runners by name: a module of this package with ``Options``, its own settings, and ``run``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from fisherscope.config import ExperimentConfig, Strict, check
from fisherscope.core.errors import SettingError
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.outcome import Outcome

RUNNERS: Final = (
    "auroc-grid",
    "autocorrelation",
    "datasets",
    "fim",
    "layer-histograms",
    "layer-scatter",
    "leaderboard",
    "likelihoods",
    "rgb-hsv",
    "samples",
    "sanity",
    "timesteps",
    "total-variation",
)
"""Names of the runners; ``auroc-grid`` lives in ``auroc_grid.py``."""


@dataclass(frozen=True)
class Runner:
    """A runner with the settings of one experiment, checked.

    Attributes:
        function: ``run(context, options)``.
        options: the runner's own settings.
    """

    function: Callable[[Context, Any], Outcome]
    options: BaseModel

    def run(self, context: Context) -> Outcome:
        """Do the experiment."""
        return self.function(context, self.options)


def make_runner(experiment: ExperimentConfig) -> Runner:
    """Return the runner of an experiment; an unknown one, or options it does not have, is a :class:`SettingError`."""
    if experiment.runner not in RUNNERS:
        raise SettingError(f"unknown runner '{experiment.runner}'; known: {', '.join(RUNNERS)}")
    module = importlib.import_module(f"fisherscope.pipeline.reproduce.{experiment.runner.replace('-', '_')}")
    return Runner(
        module.run, check(getattr(module, "Options", Strict), experiment.options, f"options of {experiment.runner}")
    )
