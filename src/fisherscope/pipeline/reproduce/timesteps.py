"""AUROC against the timestep that a diffusion model is looked at through, averaged over pairs of sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import Field

from fisherscope.config import Strict
from fisherscope.core.errors import SettingError
from fisherscope.evaluation import Interval, ResampledPair, average
from fisherscope.pipeline.reproduce.case import NothingLeftError
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.pipeline.reproduce.scores import score_case
from fisherscope.report.curves import Curve, curve_figure


class Published(Strict):
    """A published curve.

    Attributes:
        grid: name of the grid beside whose curve it is drawn.
        group_size: B; with another one it is not drawn.
        timesteps: positions.
        auroc: by detector, one figure a timestep.
    """

    grid: str
    group_size: int
    timesteps: tuple[int, ...]
    auroc: dict[str, tuple[float, ...]]


class Options(Strict):
    """Settings of this runner.

    Attributes:
        draws: noise draws to average over in the second figure.
        draws_for: in-distribution sets of the models that this is done for.
        draws_timesteps: at which timesteps; all when empty.
        published: the paper's curve, or None.
    """

    draws: int = Field(default=5, ge=2)
    draws_for: tuple[str, ...] = ()
    draws_timesteps: tuple[int, ...] = ()
    published: Published | None = None


@dataclass(frozen=True)
class Point:
    """The pairs of one model at one timestep.

    Attributes:
        grid: name of the grid.
        in_dist: in-distribution set.
        timestep: T.
        draws: noise draws.
        pairs: figures of every pair.
    """

    grid: str
    in_dist: str
    timestep: int
    draws: int
    pairs: tuple[ResampledPair, ...]

    def having(self, detector: str) -> list[ResampledPair]:
        """Return the pairs that a detector scored; it may need more samples, or another kind of model."""
        return [pair for pair in self.pairs if detector in pair.estimates]


def run(context: Context, options: Options) -> Outcome:
    """Score every pair at every timestep with one draw, and those of some models with several draws too."""
    if not context.experiment.timesteps or len(context.experiment.group_sizes) != 1:
        raise SettingError("this experiment needs timesteps and one group size; give --timestep T, --group-size B")
    if options.published is not None and options.published.group_size != context.experiment.group_sizes[0]:
        options = options.model_copy(update={"published": None})
    points = list(_points(context, options))
    if not any(point.pairs for point in points):
        raise NothingLeftError(f"nothing is left to score: {context.skipped_text() or 'no model has another set'}")
    curves = {grid: _mean_curves(points, grid, context) for grid in dict.fromkeys(p.grid for p in points)}
    several = {d: _draw_curves(points, d, context, options) for d in options.draws_for}
    shown = {f"{grid}-timesteps": [*own, *_published(options, grid)] for grid, own in curves.items() if own}
    shown |= {f"{name}-draws": own for name, own in several.items() if own}
    label = f"AUROC, mean of pairs (B = {context.experiment.group_sizes[0]})"
    results = {
        "curves": [{"figure": stem, **_curve_json(c)} for stem, drawn in shown.items() for c in drawn],
        "points": [_point_json(p, d) for p in points for d in context.experiment.detectors if p.having(d)],
    }
    captions = {stem: _caption(stem, points, context.experiment.limit, options) for stem in shown}
    figures = {stem: curve_figure(drawn, "timestep T", label) for stem, drawn in shown.items()}
    return Outcome(results, _note(curves, several, options), figures=figures, captions=captions)


def _points(context: Context, options: Options) -> Iterator[Point]:
    for case in context.cases:
        if case.timestep is None or not case.out_dists:
            continue
        again = case.in_dist in options.draws_for and case.timestep in (options.draws_timesteps or (case.timestep,))
        for draws in (1, options.draws) if again else (1,):
            pairs = score_case(context, replace(case, draws=draws))
            yield Point(case.grid, case.in_dist, case.timestep, draws, tuple(pairs))


def _curves(points: Sequence[Point], kind: str, context: Context) -> Iterator[Curve]:
    """Yield each detector's mean over the pairs that it scored, at every timestep that has some."""
    timesteps = sorted({point.timestep for point in points})
    for detector in context.experiment.detectors:
        pairs = {t: [pair for p in points if p.timestep == t for pair in p.having(detector)] for t in timesteps}
        means = {t: average(chosen, detector) for t, chosen in pairs.items() if chosen}
        if means:
            yield Curve(detector, kind, list(means), list(means.values()))


def _mean_curves(points: Sequence[Point], grid: str, context: Context) -> list[Curve]:
    return list(_curves([p for p in points if p.grid == grid and p.draws == 1], "here", context))


def _draw_curves(points: Sequence[Point], in_dist: str, context: Context, options: Options) -> list[Curve]:
    several = {p.timestep for p in points if p.in_dist == in_dist and p.draws > 1}
    chosen = [p for p in points if p.in_dist == in_dist and p.timestep in several]
    kinds = {1: "one draw", options.draws: f"{options.draws} draws"}
    return [
        curve
        for draws, kind in kinds.items()
        for curve in _curves([p for p in chosen if p.draws == draws], kind, context)
    ]


def _published(options: Options, grid: str) -> list[Curve]:
    if options.published is None or options.published.grid != grid:
        return []
    return [
        Curve(detector, "the paper", options.published.timesteps, [Interval(y, y, y) for y in figures])
        for detector, figures in options.published.auroc.items()
    ]


def _curve_json(curve: Curve) -> dict[str, Any]:
    return {
        "detector": curve.detector,
        "kind": curve.kind,
        "timesteps": list(curve.x),
        "auroc": [asdict(interval) for interval in curve.y],
    }


def _point_json(point: Point, detector: str) -> dict[str, Any]:
    return {
        "in_dist": point.in_dist,
        "timestep": point.timestep,
        "draws": point.draws,
        "detector": detector,
        "pairs": {pair.out_dist: asdict(pair.interval(detector)) for pair in point.having(detector)},
    }


def _caption(stem: str, points: Sequence[Point], limit: int, options: Options) -> str:
    name, _, kind = stem.rpartition("-")
    if kind == "draws":
        return f"The diffusion model of {name}: its term at T with one noise draw and as the mean of {options.draws}."
    count = len({(p.in_dist, pair.out_dist) for p in points if p.grid == name for pair in p.pairs})
    beside = (
        ""
        if options.published is None or options.published.grid != name
        else (
            f" Of the paper: its own curves, B = {options.published.group_size}, of other sets and far larger models, "
            "without intervals."
        )
    )
    return (
        f"Mean over {count} pairs of {name} sets (of a detector that cannot serve all, over those that it can), "
        f"one noise draw, with 95 % bootstrap intervals; at most {limit:,} test images of a set, twice as many of the "
        f"in-distribution set, half of them to fit.{beside}"
    )


def _beside_published(drawn: Sequence[Curve], grid: str, options: Options) -> Iterator[str]:
    """Say how far the curves are from the published ones at the timesteps that both have."""
    for paper in _published(options, grid):
        for curve in (c for c in drawn if c.detector == paper.detector):
            theirs = dict(zip(paper.x, paper.y, strict=True))
            gaps = [y.estimate - theirs[x].estimate for x, y in zip(curve.x, curve.y, strict=True) if x in theirs]
            if gaps:
                mean = sum(gaps) / len(gaps)
                yield f"{curve.detector} lies {mean:+.3f} from the paper's curve in the mean over its timesteps."


def _note(curves: Mapping[str, Sequence[Curve]], several: Mapping[str, Sequence[Curve]], options: Options) -> str:
    """Say where each curve is best, how it ends and what several draws change."""
    sentences = []
    for grid, drawn in curves.items():
        for curve in drawn:
            means = [y.estimate for y in curve.y]
            best = max(range(len(means)), key=means.__getitem__)
            sentences.append(
                f"{grid} sets: {curve.detector} has {means[0]:.3f} at T = {curve.x[0]:g}, its best "
                f"{means[best]:.3f} at T = {curve.x[best]:g} and {means[-1]:.3f} at T = {curve.x[-1]:g}."
            )
        sentences += _beside_published(drawn, grid, options)
    for name, drawn in several.items():
        for one in (c for c in drawn if c.kind == "one draw"):
            more = next(c for c in drawn if c.detector == one.detector and c.kind != one.kind)
            gain = sum(b.estimate - a.estimate for a, b in zip(one.y, more.y, strict=True)) / len(one.y)
            sentences.append(f"{name}: {options.draws} draws change {one.detector} by {gain:+.3f} in the mean over T.")
    return " ".join(sentences)
