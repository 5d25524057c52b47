"""The experiment files that come with the package, and what the command line changes in one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from fisherscope.config import ExperimentConfig, GridTable, read_experiment_config
from fisherscope.core.errors import SettingError


def experiments_root() -> Path:
    """Return the folder of the experiment files, which ``experiments/reproduce`` of the repository links to."""
    return Path(str(resources.files("fisherscope"))) / "experiments"


def experiment_names() -> tuple[str, ...]:
    """Return the names of all experiments, sorted."""
    return tuple(sorted(path.stem for path in experiments_root().glob("*.toml")))


def read_experiment(name: str) -> ExperimentConfig:
    """Return the experiment of a name, or of a .toml file of one's own, given by its path."""
    if name.endswith(".toml"):
        return read_experiment_config(name)
    if name not in experiment_names():
        raise SettingError(
            f"there is no experiment '{name}'; there are: {', '.join(experiment_names())}, or a .toml file of your own"
        )
    return read_experiment_config(experiments_root() / f"{name}.toml")


def known_names(experiment: ExperimentConfig) -> dict[str, list[str]]:
    """Return the ``families``, the in-distribution sets (``in_dist``) and all ``sets`` of an experiment, each once."""
    grids = experiment.grids
    names = {
        "families": [f for g in grids for f in g.families],
        "in_dist": [s for g in grids for s in g.in_dist],
        "sets": [s for g in grids for s in g.sets],
    }
    return {what: list(dict.fromkeys(found)) for what, found in names.items()}


def narrow(
    experiment: ExperimentConfig,
    *,
    families: Sequence[str] = (),
    in_dist: Sequence[str] = (),
    sets: Sequence[str] = (),
    strict: bool = True,
) -> ExperimentConfig:
    """Return an experiment with fewer models and sets.

    Args:
        experiment: as the file has it.
        families: keep only these; all when empty, as with the next two.
        in_dist: keep only these in-distribution sets.
        sets: keep only these sets to compare with.
        strict: whether a name that the experiment does not have is an error.

    Raises:
        SettingError: a name is not in the experiment.
    """
    grids = experiment.grids
    if strict:
        known = known_names(experiment)
        _require_known("family", families, known["families"])
        _require_known("in-distribution set", in_dist, known["in_dist"])
        _require_known("set", sets, known["sets"])
    kept = [_narrow(grid, families, in_dist, sets) for grid in grids]
    left = [new for old, new in zip(grids, kept, strict=True) if new.in_dist and (new.families or not old.families)]
    return experiment.model_copy(update={"grids": tuple(left)})


def _narrow(grid: GridTable, families: Sequence[str], in_dist: Sequence[str], sets: Sequence[str]) -> GridTable:
    if not grid.families:  # no model has an in-distribution set: all are sets to compare
        in_dist = tuple(s for s in grid.in_dist if (s in sets or not sets) and (s in in_dist or not in_dist))
        return grid.model_copy(update={"in_dist": in_dist})
    changes = {
        "families": tuple(f for f in grid.families if not families or f in families),
        "in_dist": tuple(s for s in grid.in_dist if not in_dist or s in in_dist),
        "out_dist": tuple(s for s in grid.compared if not sets or s in sets),
    }
    return grid.model_copy(update=changes)


def _require_known(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise SettingError(
            f"the experiment has no {what} {', '.join(unknown)}; it has {', '.join(known)}; for others "
            "copy its file and give the copy's path"
        )
