"""What a run is told, what it is about, and what it records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fisherscope.core.errors import DataError
from fisherscope.core.settings import require_whole
from fisherscope.evaluation.bootstrap import require_replicates

TABLES: Final = Path("runs") / "reproduction" / "tables"


class NothingLeftError(DataError):
    """None of the models and sets that an experiment needs is there."""


@dataclass(frozen=True)
class RunSettings:
    """Where things are and how to compute.

    Attributes:
        data_root: folder of named sets; None for FISHERSCOPE_DATA.
        models: folder that holds the models as ``FAMILY-SET``; None for the zoo.
        tables: folder of cached feature tables, shared by all experiments.
        seed: of draws, splits, model noise and bootstrap.
        replicates: of the bootstrap.
        device: torch device.
        max_memory: bytes that one gradient pass may use, or None.
        hub: whether sets of the paper that are not in the data root are fetched from the Hugging Face hub.
    """

    data_root: Path | None = None
    models: Path | None = None
    tables: Path = TABLES
    seed: int = 0
    replicates: int = 1000
    device: str = "cpu"
    max_memory: int | None = None
    hub: bool = False

    def __post_init__(self) -> None:
        """Check the numbers before anything is computed."""
        object.__setattr__(self, "seed", require_whole("seed", self.seed, 0))
        object.__setattr__(self, "replicates", require_replicates(self.replicates))


@dataclass(frozen=True)
class Case:
    """One model and the sets it is shown, all of which are there.

    Attributes:
        grid: name of the grid.
        family: model family.
        in_dist: its in-distribution set.
        out_dists: the other sets.
        timestep: the term of the bound that a diffusion model is looked at through, or None for its own objective.
        draws: noise draws that a diffusion model averages over, or None for its own number.
    """

    grid: str
    family: str
    in_dist: str
    out_dists: tuple[str, ...]
    timestep: int | None = None
    draws: int | None = None

    @property
    def model(self) -> str:
        """Name of the model."""
        return f"{self.family}-{self.in_dist}"

    @property
    def label(self) -> str:
        """Family and, where there is one, timestep: what a legend says."""
        return self.family if self.timestep is None else f"{self.family}, T = {self.timestep}"

    @property
    def name(self) -> str:
        """Name of the model with what is changed in it, for progress and protocols."""
        changes = {"T": self.timestep, "draws": self.draws}
        return ", ".join([self.model, *(f"{k} = {v}" for k, v in changes.items() if v is not None)])


@dataclass
class Ledger:
    """What a run used.

    Attributes:
        models: fingerprint by name.
        samples: number of samples taken, by set and role.
        skipped: why something was left out, by what it was.
        protocols: of every evaluation.
    """

    models: dict[str, str] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    protocols: list[dict[str, Any]] = field(default_factory=list)
