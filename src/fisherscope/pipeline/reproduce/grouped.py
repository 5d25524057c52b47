"""Pairs of sets sorted by grid, kind of model and group size, and what several runners say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fisherscope.evaluation import METRICS, ResampledPair, compare
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.scores import score_case


@dataclass(frozen=True)
class Group:
    """All pairs of one grid, one kind of model and one group size.

    Attributes:
        grid: name of the grid.
        label: the models' family and timestep.
        group_size: B.
        pairs: figures of every pair.
    """

    grid: str
    label: str
    group_size: int
    pairs: tuple[ResampledPair, ...]

    @property
    def detectors(self) -> tuple[str, ...]:
        """Those that any of these models can serve."""
        return tuple(dict.fromkeys(detector for pair in self.pairs for detector in pair.estimates))

    def having(self, *detectors: str) -> list[ResampledPair]:
        """Return the pairs that were scored by all of some detectors."""
        return [pair for pair in self.pairs if all(detector in pair.estimates for detector in detectors)]

    def has_all(self, detector: str) -> bool:
        """Return whether a detector scored every pair: means over other pairs are not compared."""
        return len(self.having(detector)) == len(self.pairs)

    @property
    def place(self) -> dict[str, Any]:
        """What names the group in results."""
        return {"grid": self.grid, "model": self.label, "group_size": self.group_size}

    def values(self, detector: str, metric: str = "auroc") -> list[float]:
        """Return a detector's metric on every pair that has it."""
        return [pair.estimates[detector][metric] for pair in self.having(detector)]

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield every figure as JSON values, one mapping a pair and detector."""
        for pair in self.pairs:
            for detector in pair.estimates:
                yield {**self.place, "detector": detector, **pair_json(pair, detector)}


def pair_json(pair: ResampledPair, detector: str) -> dict[str, Any]:
    """Return every metric of a detector on a pair with its interval, as JSON values."""
    figures: dict[str, Any] = {}
    for metric in METRICS:
        interval = pair.interval(detector, metric)
        figures |= {metric: interval.estimate, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
    return {
        "in_dist": pair.in_dist,
        "out_dist": pair.out_dist,
        "n_in": pair.n_in,
        "n_out": pair.n_out,
        **figures,
    }


def group_cases(cases: Iterable[tuple[Case, Sequence[ResampledPair]]]) -> list[Group]:
    """Return the pairs of cases by grid, label and group size, in order of first appearance; there may be none."""
    found: dict[tuple[str, str, int], list[ResampledPair]] = {}
    for case, pairs in cases:
        for pair in pairs:
            found.setdefault((case.grid, case.label, pair.group_size), []).append(pair)
    return [Group(grid, label, size, tuple(pairs)) for (grid, label, size), pairs in found.items()]


def score_cases(context: Context, **how: Any) -> list[Group]:
    """Score every case that has other sets; keywords as of :func:`score_case`.

    Raises:
        NothingLeftError: no case has another set and a detector that its model can serve.
    """
    groups = group_cases((case, score_case(context, case, **how)) for case in context.cases if case.out_dists)
    if not groups:
        raise NothingLeftError(f"nothing is left to score: {context.skipped_text()}")
    return groups


def comparisons(group: Group, first: str) -> Iterator[dict[str, Any]]:
    """Yield the paired comparisons of a detector with every other one: in the mean (``pair`` None), then by pair."""
    for other in (d for d in group.detectors if d != first):
        pairs = group.having(first, other)
        place = {**group.place, "a": first, "b": other}
        if pairs:
            yield {**place, "pair": None, "pairs": len(pairs), **asdict(compare(pairs, first, other))}
        for pair in pairs:
            sets = [pair.in_dist, pair.out_dist]
            yield {**place, "pair": sets, "pairs": 1, **asdict(compare([pair], first, other))}
