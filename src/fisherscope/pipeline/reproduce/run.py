"""Runs an experiment and writes what it makes; tells beforehand what it would use."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fisherscope.config import ExperimentConfig
from fisherscope.core.store import read_json, write_json
from fisherscope.pipeline.evaluation import ReportSteps
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError, RunSettings
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.experiments import experiment_names, read_experiment
from fisherscope.pipeline.reproduce.outcome import Outcome, save_outcome
from fisherscope.pipeline.reproduce.registry import make_runner
from fisherscope.pipeline.versions import versions

OUT: Final = Path("runs") / "reproduction"
_TIMES: Final = "times.json"


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
    cases = context.cases if context.has_models else ()
    return Plan(cases, dict(context.ledger.skipped), experiment.minutes)


def reproduce(
    name: str,
    experiment: ExperimentConfig,
    settings: RunSettings,
    out: str | Path,
    *,
    command: str,
    report: ReportSteps | None = None,
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
    watch = _Stopwatch.start(out / _TIMES, context)
    try:
        outcome = runner.run(context)
    except NothingLeftError:
        raise
    except BaseException:
        watch.keep(watch.seconds()["seconds_first_run"], finished=False)
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
    watch.keep(about["seconds_first_run"], finished=True)
    return Reproduction(outcome, files, dict(context.ledger.skipped), about["seconds"])


@dataclass(frozen=True)
class _Stopwatch:
    """Counts the seconds of this run, and of the first that finished together with the interrupted ones before it.

    They are kept by what was run: neither other settings nor other models and sets touch the time of a full run.
    """

    path: Path
    what: str
    started: float

    @classmethod
    def start(cls, path: Path, context: Context) -> _Stopwatch:
        """Start to count; ``path`` is the file of times."""
        settings, words = context.settings, {"makes", "paper", "comment", "minutes"}
        how = {k: str(v) for k, v in asdict(settings).items() if k not in ("tables", "max_memory")}
        what = [context.experiment.model_dump(mode="json", exclude=words), how, context.there()]
        digest = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()
        return cls(path, digest, time.monotonic())

    def seconds(self) -> dict[str, float]:
        """Return ``seconds`` of this run and ``seconds_first_run`` of the first one of the same."""
        spent = time.monotonic() - self.started
        first = self._kept()["seconds"] + (0.0 if self._kept()["finished"] else spent)
        return {"seconds": round(spent, 1), "seconds_first_run": round(first, 1)}

    def keep(self, seconds_first_run: float, *, finished: bool) -> None:
        """Keep what :meth:`seconds` said, unless a run of the same finished before."""
        if not self._kept()["finished"]:
            kept = {"seconds": seconds_first_run, "finished": finished}
            write_json(self.path, {**self._all(), self.what: kept})

    def _kept(self) -> dict[str, Any]:
        found: dict[str, Any] = self._all().get(self.what, {"seconds": 0.0, "finished": False})
        return found

    def _all(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        return found
