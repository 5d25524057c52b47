"""Runs an experiment and writes what it makes; tells beforehand what it would use."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fisherscope.config import ExperimentConfig
from fisherscope.core.store import read_json, write_json
from fisherscope.pipeline.evaluation import ReportProgress
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError, RunSettings
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.experiments import experiment_names, read_experiment
from fisherscope.pipeline.reproduce.outcome import RESULTS, Outcome, save_outcome
from fisherscope.pipeline.reproduce.registry import make_runner
from fisherscope.pipeline.versions import versions

OUT: Final = Path("runs") / "reproduction"
_UNFINISHED: Final = "unfinished.json"


@dataclass(frozen=True)
class Reproduction:
    """A finished experiment.

    Attributes:
        outcome: what it made.
        files: where that was written, ``results.json`` last.
        skipped: why something was left out, by what it was.
        seconds: what this run took.
    """

    outcome: Outcome
    files: list[Path]
    skipped: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What an experiment would do.

    Attributes:
        cases: models with their sets.
        skipped: why something would be left out, by what it is.
        minutes: how long it takes at most, with the zoo's models on two cores.
    """

    cases: tuple[Case, ...]
    skipped: Mapping[str, str]
    minutes: float


def list_experiments() -> list[dict[str, Any]]:
    """Return name, what it makes and minutes of every experiment, sorted by name."""
    read = {name: read_experiment(name) for name in experiment_names()}
    return [{"name": name, "makes": e.makes, "minutes": e.minutes} for name, e in read.items()]


def plan(experiment: ExperimentConfig, settings: RunSettings) -> Plan:
    """Return what :func:`reproduce` would do, without loading a model.

    Raises:
        NothingLeftError: none of the models and sets that the experiment needs is there.
        SettingError: the experiment names an unknown runner or option.
    """
    make_runner(experiment)
    context = Context(experiment, settings)
    cases = context.cases if any(grid.families for grid in experiment.grids) else ()
    return Plan(cases, dict(context.ledger.skipped), experiment.minutes)


def reproduce(
    name: str,
    experiment: ExperimentConfig,
    settings: RunSettings,
    out: str | Path,
    *,
    command: str,
    report: ReportProgress | None = None,
) -> Reproduction:
    """Do an experiment and write its results; features are cached, so that a second or interrupted run goes on.

    Args:
        name: of the experiment.
        experiment: what to do.
        settings: where things are and how to compute.
        out: folder for the results.
        command: command line that makes them again.
        report: called with (what, done, in all).

    Raises:
        NothingLeftError: none of the models and sets that the experiment needs is there.
        SettingError: the experiment names an unknown runner or option.
    """
    out = Path(out)
    runner = make_runner(experiment)
    context = Context(experiment, settings, report)
    watch = _Stopwatch.start(out, experiment, settings)
    try:
        outcome = runner.run(context)
    except NothingLeftError:
        raise
    except BaseException:
        watch.interrupt()
        raise
    about = {
        "experiment": name,
        "makes": experiment.makes,
        "paper": experiment.paper.strip(),
        "comment": experiment.comment.strip(),
        "command": command,
        **watch.seconds(),
        **context.used(),
        "config": experiment.model_dump(mode="json"),
        "versions": versions(),
    }
    files = save_outcome(outcome, out, about)
    watch.finish()
    return Reproduction(outcome, files, dict(context.ledger.skipped), about["seconds"])


@dataclass(frozen=True)
class _Stopwatch:
    """Counts the seconds of this run, and of the first that finished together with the interrupted ones before it."""

    folder: Path
    digest: str
    started: float

    @classmethod
    def start(cls, folder: Path, experiment: ExperimentConfig, settings: RunSettings) -> _Stopwatch:
        words = {"makes", "paper", "comment", "minutes"}
        what = f"{experiment.model_dump_json(exclude=words)} {settings.seed} {settings.replicates}"
        return cls(folder, hashlib.blake2b(what.encode(), digest_size=8).hexdigest(), time.monotonic())

    def seconds(self) -> dict[str, Any]:
        """Return ``seconds`` of this run and ``seconds_first_run`` of the first one of the same settings."""
        now = time.monotonic() - self.started
        before = self._read(RESULTS).get("seconds_first_run")
        first = now + self._read(_UNFINISHED).get("seconds", 0.0) if before is None else before
        return {"seconds": round(now, 1), "seconds_first_run": round(first, 1), "settings_digest": self.digest}

    def interrupt(self) -> None:
        """Keep the seconds of a run that did not finish."""
        spent = time.monotonic() - self.started + self._read(_UNFINISHED).get("seconds", 0.0)
        write_json(self.folder / _UNFINISHED, {"settings_digest": self.digest, "seconds": round(spent, 1)})

    def finish(self) -> None:
        """Forget the interrupted runs."""
        (self.folder / _UNFINISHED).unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        value = read_json(path) if path.is_file() else {}
        return value if isinstance(value, dict) and value.get("settings_digest") == self.digest else {}
