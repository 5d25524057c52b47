"""What a runner works with: models, sets, cached tables, progress, and a record of what was used and what skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from fisherscope.config import ExperimentConfig, GridTable
from fisherscope.core.store import read_json
from fisherscope.core.table import FeatureTable
from fisherscope.data import Samples, has_samples, load_samples
from fisherscope.evaluation.protocol import FIT_SHARE
from fisherscope.features.companions import Companion
from fisherscope.models.zoo import PREFIX, zoo_root
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.evaluation import Evaluation, EvaluationSettings, ReportSteps, evaluate
from fisherscope.pipeline.extraction import ExtractSettings
from fisherscope.pipeline.kept_tables import kept_table
from fisherscope.pipeline.reproduce.case import Case, Ledger, NothingLeftError, RunSettings
from fisherscope.pipeline.target import Target, load_target

HUB_SETS: Final[Mapping[str, tuple[str, str]]] = {
    "svhn": ("ufldl-stanford/svhn", "test"),
    "imagenet32": ("benjamin-paine/imagenet-1k-32x32", "validation"),
}
"""Names on the Hugging Face hub of sets that the paper uses, and what their test split is called there."""


@dataclass
class Context:
    """What a runner works with.

    Attributes:
        experiment: the experiment, after the command line's changes.
        settings: where things are and how to compute.
        report: called with (what, done, in all).
        ledger: what was used and what was skipped; goes into the results.
    """

    experiment: ExperimentConfig
    settings: RunSettings
    report: ReportSteps | None = None
    ledger: Ledger = field(default_factory=Ledger)
    _loaded: dict[tuple[Any, ...], Samples] = field(default_factory=dict, repr=False)

    def skip(self, what: str, why: str) -> None:
        """Record that something was left out."""
        self.ledger.skipped[what] = why

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Every model of the experiment that is there, with the sets that are there; the others are skipped by name.

        Raises:
            NothingLeftError: nothing is left.
        """
        found = tuple(case for grid in self.experiment.grids for case in self._cases(grid))
        if not found:
            raise NothingLeftError(f"nothing is left to do: {self.skipped_text() or 'the experiment names no model'}")
        return found

    @cached_property
    def sets(self) -> dict[str, tuple[str, ...]]:
        """Every set of the experiment that is there, by grid; the others are skipped by name.

        Raises:
            NothingLeftError: nothing is left.
        """
        found = {grid.name: tuple(s for s in grid.sets if self.has_set(s)) for grid in self.experiment.grids}
        if not any(found.values()):
            raise NothingLeftError(f"nothing is left to do: {self.skipped_text() or 'the experiment names no set'}")
        return {name: sets for name, sets in found.items() if sets}

    @property
    def has_models(self) -> bool:
        """Whether the experiment is about models, not about sets alone."""
        return any(grid.families for grid in self.experiment.grids)

    def there(self) -> dict[str, tuple[str, ...]]:
        """Return what the experiment names and is there: sets by model or, without models, by grid.

        Raises:
            NothingLeftError: nothing is left.
        """
        if not self.has_models:
            return self.sets
        return {f"{case.grid}: {case.name}": (case.in_dist, *case.out_dists) for case in self.cases}

    def skipped_text(self) -> str:
        """Return what was skipped and why, in one line."""
        return "; ".join(f"{what} ({why})" for what, why in self.ledger.skipped.items())

    def _cases(self, grid: GridTable) -> Iterable[Case]:
        there = [name for name in grid.sets if self.has_set(name)]
        for family in grid.families:
            timesteps = self.experiment.timesteps if family == "diffusion" else ()
            for in_dist in (name for name in grid.in_dist if name in there and self._has_model(family, name)):
                others = tuple(s for s in grid.compared if s in there and s != in_dist)
                reached = self._reached(f"{family}-{in_dist}", timesteps)
                yield from (Case(grid.name, family, in_dist, others, t) for t in reached)

    def _reached(self, model: str, timesteps: Sequence[int]) -> Sequence[int | None]:
        """Return the timesteps that a model has, or None alone where none is asked; others are skipped by name."""
        if not timesteps:
            return (None,)
        steps = read_json(self.models / model / "model.json").get("config", {}).get("diffusion_steps", max(timesteps))
        beyond = [str(t) for t in timesteps if t > steps]
        if beyond:
            self.skip(f"T = {', '.join(beyond)} of {model}", f"it has {steps} steps")
        return [t for t in timesteps if t <= steps]

    @property
    def models(self) -> Path:
        """Folder of the models."""
        return self.settings.models or zoo_root()

    def has_set(self, name: str) -> bool:
        """Return whether a set is there; one that is not is skipped by name."""
        if has_samples(name, self.settings.data_root) or self.on_hub(name):
            return True
        fetch = "; --hub fetches it" if name in HUB_SETS else ""
        self.skip(f"set {name}", f"not in the data root and not bundled{fetch}")
        return False

    def on_hub(self, name: str) -> bool:
        """Whether a set is taken from the hub: it is asked for, known there and not here."""
        return self.settings.hub and name in HUB_SETS and not has_samples(name, self.settings.data_root)

    def _has_model(self, family: str, in_dist: str) -> bool:
        name = f"{family}-{in_dist}"
        if (self.models / name / "model.json").is_file():
            return True
        self.skip(f"model {name}", "not in the folder of models" if self.settings.models else "not in the zoo")
        return False

    def target(self, case: Case) -> Target:
        """Load the model of a case."""
        place = PREFIX + case.model if self.settings.models is None else str(self.settings.models / case.model)
        wanted = {"timesteps": None if case.timestep is None else [case.timestep], "draws": case.draws}
        changes = {name: value for name, value in wanted.items() if value is not None}
        target = load_target(place, device=self.settings.device, settings=changes)
        self.ledger.models[case.name] = target.fingerprint()
        return target

    def samples(
        self, name: str, *, limit: int | None = None, shape: tuple[int, int, int] | None = None, split: str = "test"
    ) -> Samples:
        """Load samples of a set, at random.

        Args:
            name: of the set.
            limit: at most so many; by default the experiment's limit.
            shape: (C, H, W) to convert images of another shape to; None takes them as they are.
            split: of the set.
        """
        limit = limit or self.experiment.limit
        wanted = (name, split, limit, shape)
        if wanted not in self._loaded:
            self._loaded[wanted] = self._load(name, split, limit, shape)
        found = self._loaded[wanted]
        called = f"{found.name}, {HUB_SETS[name][0]} of the hub" if self.on_hub(name) else found.name
        self.ledger.samples[called] = max(len(found), self.ledger.samples.get(called, 0))
        return found

    def _load(self, name: str, split: str, limit: int, shape: tuple[int, int, int] | None) -> Samples:
        place, there = name, split
        if self.on_hub(name):
            place, test = HUB_SETS[name]
            there = test if split == "test" else split
        found = load_samples(
            place,
            default_split=there,
            data_root=self.settings.data_root,
            limit=limit,
            seed=self.settings.seed,
            resize=shape,
        )
        return found if place == name else replace(found, name=f"{name}[{split}]")

    def batches(self, name: str, target: Target, *, limit: int | None = None) -> Batches:
        """Load test samples of a set in the model's shape; arguments as :meth:`samples`."""
        shape = target.data_shape
        return as_batches(
            self.samples(name, limit=limit, shape=shape if shape is not None and len(shape) == 3 else None), target
        )

    def in_dist(self, case: Case, target: Target, *, limit: int | None = None) -> Batches:
        """Load the in-distribution set of a case: so many that the largest part of it holds ``limit`` samples."""
        return self.batches(case.in_dist, target, limit=round((limit or self.experiment.limit) / FIT_SHARE))

    def evaluation_settings(
        self,
        detectors: Sequence[str],
        group_sizes: Sequence[int],
        *,
        keep_tables: bool = True,
        companions: Sequence[Companion] = (),
    ) -> EvaluationSettings:
        """Return the run's settings as an evaluation takes them; ``keep_tables``: whether features are cached."""
        return EvaluationSettings(
            detectors=tuple(detectors),
            group_sizes=tuple(group_sizes),
            seed=self.settings.seed,
            replicates=self.settings.replicates,
            max_memory=self.settings.max_memory,
            tables=self.settings.tables if keep_tables else None,
            companions=tuple(companions),
        )

    def evaluate(
        self,
        case: Case,
        *,
        detectors: Sequence[str] | None = None,
        group_sizes: Sequence[int] | None = None,
        target: Target | None = None,
    ) -> Evaluation:
        """Evaluate detectors on a case, all of whose tables are cached; see :func:`fisherscope.evaluate`.

        Args:
            case: model and sets.
            detectors: by default the experiment's.
            group_sizes: by default the experiment's.
            target: the model, where it was loaded already.
        """
        target = target or self.target(case)
        settings = self.evaluation_settings(
            detectors or self.experiment.detectors, group_sizes or self.experiment.group_sizes
        )
        others = [self.batches(name, target) for name in case.out_dists]
        done = evaluate(target, self.in_dist(case, target), others, settings, report=self.progress(case.name))
        self.ledger.protocols.append({"model": case.name, **done.protocol.to_json()})
        return done

    def table(
        self, target: Target, data: Batches, blocks: Iterable[str] = ("grad_norm", "log_p"), *, group_size: int = 1
    ) -> FeatureTable:
        """Return features of consecutive groups of samples, from the cache where they are there."""
        settings = ExtractSettings(group_size, self.settings.seed, max_memory=self.settings.max_memory)
        progress = self.progress(target.name)
        return kept_table(
            self.settings.tables,
            target,
            data,
            blocks,
            settings,
            report=lambda done, total: progress(data.name, done, total),
        )

    def progress(self, prefix: str) -> ReportSteps:
        """Return a callback that reports with a prefix."""

        def report(what: str, done: int, total: int) -> None:
            if self.report is not None:
                self.report(f"{prefix}: {what}", done, total)

        return report

    def used(self) -> dict[str, Any]:
        """Return what was used, as JSON values."""
        places = ("data_root", "models", "tables", "max_memory")
        how = {k: v for k, v in asdict(self.settings).items() if k not in places}
        return {"settings": how, **asdict(self.ledger)}
