"""Scores of the ablation study: changes of the default on feature tables of every model and development pair."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from study_grid import EXACT, FAMILIES, GREY, REPLICATES, Case, grid_context, without_splits
from study_grid import Settings as GridSettings
from torch import nn

from fisherscope.core.table import FeatureTable
from fisherscope.data import load_samples
from fisherscope.detectors import DEFAULT_DETECTOR, make_detector
from fisherscope.detectors.base import Scores
from fisherscope.detectors.fisher_dose import FisherDose
from fisherscope.detectors.summary import CODES
from fisherscope.evaluation import Bootstrap, PairScores, ResampledPair, auroc, resample_pair, split_in_dist
from fisherscope.models.base import GenerativeModel, make_model
from fisherscope.models.files import Head, read_head
from fisherscope.models.protocols import InitialisedFromData
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.evaluation import GroupResult, score_sets
from fisherscope.pipeline.extraction import ExtractSettings
from fisherscope.pipeline.kept_tables import kept_table
from fisherscope.pipeline.reproduce.case import Case as Place
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.target import Target, load_target

COLOUR = ("cifar10", "gtsrb")
MODELS = tuple(f"{family}-{name}" for family in FAMILIES for name in (*GREY, *COLOUR))
GREY_MODELS = tuple(f"{family}-{name}" for family in FAMILIES for name in GREY)
GRADIENTS, COMPLEXITY = "gradient-dose", "complexity-dose"
PARTS = (GRADIENTS, COMPLEXITY)
"""The default without code lengths, and without gradients."""
NORMS, LOG_P = FisherDose().requires[:2]
"""What the default reads of the gradients, and of log p."""
BASES: Mapping[str, Callable[..., FisherDose]] = {
    DEFAULT_DETECTOR: FisherDose,
    GRADIENTS: partial(FisherDose, name=GRADIENTS, codes=()),
}
"""What is changed: where code lengths decide by themselves, only the gradients' own score shows what a change does."""
REFERENCES = (
    *("layerwise-gaussian", "typicality", "likelihood"),
    *("input-complexity-png", "input-complexity-zlib", "dose-kde"),
)
COMBINED = tuple(
    f"combined:{DEFAULT_DETECTOR}+{others}"
    for others in ("input-complexity-png", "pixel-mahalanobis", "input-complexity-png+pixel-mahalanobis")
)
"""The default with scores that win where it loses: Fisher's statistic of their p-values."""
NAMED = (DEFAULT_DETECTOR, *PARTS, EXACT, *REFERENCES)
MAIN = (*NAMED, *COMBINED)
"""All that the main tables have; the tables of few samples go without the combined ones, which need more."""
COMPONENTS = (2, 5, 10, 16, 32)
MODES = (1, 2, 4, 8)
FIT_SIZES = (100, 200, 500)
SUBSETS = 3
LAYERS = ("weights", "biases and scales")
DRAWS = (2, 5)
INITIAL_BATCH = 64
SEED = 0

Table = FeatureTable
Change = Callable[[Table], Table]


@dataclass(frozen=True)
class Settings:
    """How the ablations are run.

    Attributes:
        zoo: folder of the models, each FAMILY-SET.
        models: which of them.
        work: folder for feature tables.
        data_root: folder of named sets.
        limit: OOD samples a set; twice as many are taken in-distribution (half fit, a quarter calibrate and test).
        extra: OOD samples, and as many in-distribution ones, of what needs other noise or untrained models; 0 leaves
            it out.
        extra_models: the models that it is done for.
        shorter: folders of models that were trained for fewer steps, by name.
    """

    zoo: Path
    models: tuple[str, ...]
    work: Path
    data_root: str | None
    limit: int
    extra: int = 0
    extra_models: tuple[str, ...] = GREY_MODELS
    shorter: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One change of a base detector.

    Attributes:
        name: how the page calls it.
        make: returns the unfitted detector.
        change: of every table before the detector sees it.
    """

    name: str
    make: Callable[[], FisherDose]
    change: Change = lambda table: table


@dataclass(frozen=True)
class Short:
    """A model that was trained for fewer steps, beside the zoo's of the same family and set: scored as ``name``."""

    name: str
    steps: int
    full_steps: int
    case: Case


@dataclass
class Study:
    """All that was scored.

    Attributes:
        main: every named detector and every change of the default on the tables of the whole limit.
        fit_sizes: fewer fit samples; one case a subset.
        extra: averages over noise draws, and untrained models.
        controls: cases by control; the default alone is scored.
        components: numbers of components that each variant had, in the order of the main cases, of each term.
        shorter: models that were trained for fewer steps.
        missing: models that are not there, or whose other set is not.
    """

    main: list[Case] = field(default_factory=list)
    fit_sizes: list[Case] = field(default_factory=list)
    extra: list[Case] = field(default_factory=list)
    controls: dict[str, list[Case]] = field(default_factory=dict)
    components: dict[str, list[int]] = field(default_factory=dict)
    shorter: list[Short] = field(default_factory=list)
    missing: tuple[str, ...] = ()


def run_study(settings: Settings) -> Study:
    """Score everything on the models that are there."""
    context = make_context(settings)
    places = [place for place in context.cases if place.model in settings.models and place.out_dists]
    study = Study(missing=tuple(m for m in settings.models if m not in {place.model for place in places}))
    for place in sorted(places, key=lambda place: FAMILIES.index(place.family)):
        target = context.target(place)
        for group in groups(context, place, target, settings.limit):
            _score_main(study, place.family, group, weight_names(target.module))
        if settings.extra and place.model in settings.extra_models:
            study.extra += extra_cases(context, place, target, settings)
        for name, folder in settings.shorter.items():
            study.shorter += short_cases(context, place, target, name, folder)
    return study


def make_context(settings: Settings) -> Context:
    """Return the context of a run: the development pairs alone."""
    grid = GridSettings(settings.zoo, settings.work, settings.data_root, settings.limit, SEED)
    return grid_context(grid, "Changes of the default on the development pairs.", MAIN, COLOUR)


def groups(context: Context, place: Place, target: Target, limit: int) -> Iterator[GroupResult]:
    """Yield tables and named scores of a model and its pair at each group size."""
    in_dist = context.in_dist(place, target, limit=limit)
    out = context.batches(place.out_dists[0], target, limit=limit)
    how = context.evaluation_settings(MAIN, context.experiment.group_sizes)
    yield from score_sets(target, in_dist, [out], how, report=context.progress(target.name)).groups.values()


def _score_main(study: Study, family: str, group: GroupResult, weights: Collection[str]) -> None:
    parts, out, pair = of_pair(group)
    tables = (parts["fit"], parts["test"], out)
    scored = {}
    for variant in (*code_variants(), *sized_variants(), *layer_variants(parts["fit"], weights)):
        detector, scored[variant.name] = fit_and_score(variant.make, *(variant.change(table) for table in tables))
        study.components.setdefault(variant.name, []).extend(detector.n_components())
    study.main.append(Case(family, resampled(with_scores(pair, scored))))
    for seed in range(SUBSETS):
        scored = {
            fit_name(base, size): fit_and_score(make, subset(parts["fit"], size, seed), *tables[1:])[1]
            for base, make in BASES.items()
            for size in FIT_SIZES
            if size < len(parts["fit"]) * group.group_size
        }
        study.fit_sizes.append(Case(family, resampled(with_scores(only_named(pair, BASES), scored))))
    for name, control in controls(group).items():
        study.controls.setdefault(name, []).append(Case(family, control))


def fit_and_score(
    make: Callable[[], FisherDose], fit: Table, test: Table, out: Table
) -> tuple[FisherDose, tuple[Scores, Scores]]:
    """Return a detector fitted on one table, and the scores of two others."""
    detector = make().fit(fit)
    return detector, (detector.score(test), detector.score(out))


def of_pair(group: GroupResult) -> tuple[Mapping[str, Table], Table, PairScores]:
    """Return in-distribution parts, OOD table and scores of a result with one OOD set."""
    ((name, out),) = group.out.items()
    return group.parts, out, group.pairs[name]


def components_name(base: str, most: int) -> str:
    """Return what a base detector of at most so many components is called."""
    return f"{base}, k ≤ {most}"


def modes_name(base: str, most: int) -> str:
    """Return what a base detector of at most so many normals is called."""
    return f"{base}, up to {most} normal{'s' if most > 1 else ''}"


def fit_name(base: str, size: int) -> str:
    """Return what a base detector of so many fit samples is called."""
    return f"{base}, {size} fit samples"


def alone_name(base: str, which: str) -> str:
    """Return what a base detector of some of the parameters, or of one code, is called."""
    return f"{base}, {which} alone"


def draws_name(base: str, draws: int) -> str:
    """Return what a base detector averaged over so many noise draws is called."""
    return f"{base}, mean of {draws} draws"


def untrained_name(detector: str) -> str:
    """Return what a detector on the untrained model is called."""
    return f"{detector}, untrained"


def code_variants() -> list[Variant]:
    """Return the default with each code alone."""
    return [Variant(alone_name(DEFAULT_DETECTOR, code), partial(FisherDose, codes=(code,))) for code in CODES]


def sized_variants() -> list[Variant]:
    """Return the base detectors with other limits on their components and normals, and with their own."""
    return [
        variant
        for base, make in BASES.items()
        for variant in (
            *(Variant(components_name(base, k), partial(make, most_components=k)) for k in COMPONENTS),
            *(Variant(modes_name(base, m), partial(make, most_modes=m)) for m in MODES),
        )
    ]


def layer_variants(table: Table, weights: Collection[str]) -> list[Variant]:
    """Return the base detectors on the weights alone, and on all other parameters alone."""
    others = {parameter_of(column) for column in table.columns[NORMS]} - set(weights)
    return [
        Variant(alone_name(base, which), make, partial(only_layers, names=names))
        for base, make in BASES.items()
        for which, names in zip(LAYERS, (weights, others), strict=True)
    ]


def weight_names(module: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that are matrices or kernels: at least two axes are longer than 1."""
    return frozenset(name for name, p in module.named_parameters() if sum(side > 1 for side in p.shape) > 1)


def only_layers(table: Table, names: Collection[str]) -> Table:
    """Return the table with the gradient norms of the named parameters alone."""
    columns = table.columns[NORMS]
    kept = [i for i, column in enumerate(columns) if parameter_of(column) in names]
    return replace(
        table,
        blocks={**table.blocks, NORMS: table.block(NORMS)[:, kept]},
        columns={**table.columns, NORMS: tuple(columns[i] for i in kept)},
    )


def parameter_of(column: str) -> str:
    """Return the parameter of a column of norms: its name without the term of log p."""
    return column.partition(" [")[0]


def subset(table: Table, samples: int, seed: int) -> Table:
    """Return random groups of a table that hold so many samples together."""
    rows = np.random.default_rng([seed, samples]).permutation(len(table))
    return table.select(np.sort(rows[: samples // table.card.group_size]))


def averaged(tables: Sequence[Table]) -> Table:
    """Return the first table with the means over all of log f_l and of log p: the same samples under other noise."""
    tiny = np.finfo(np.float64).tiny
    logs = [np.log(np.maximum(t.block(NORMS).astype(np.float64), tiny)) for t in tables]
    means = {
        NORMS: np.exp(np.mean(logs, axis=0)),
        LOG_P: np.mean([t.block(LOG_P) for t in tables], axis=0, dtype=np.float64),
    }
    return replace(tables[0], blocks={**tables[0].blocks, **means})


def controls(group: GroupResult) -> dict[str, ResampledPair]:
    """Return what must come out at 0.5, or below it for the last one, by name.

    The in-distribution test part against itself, in random halves; all scores of the pair with shuffled labels; and
    the default fitted on half of the OOD set (whole clusters at B = 1), tested on in-distribution test part and the
    other half. One draw of halves or labels is off by chance, so the first two are means over many draws, with their
    spread in place of a bootstrap's.
    """
    parts, out, pair = of_pair(group)
    inside, outside = pair.scores_in[DEFAULT_DETECTOR], pair.scores_out[DEFAULT_DETECTOR]
    split = split_in_dist(len(out), 1, SEED, clusters=pair.clusters_out)
    rest = np.concatenate([split.calibration, split.test])
    _, swapped = fit_and_score(FisherDose, out.select(split.fit), parts["test"], out.select(rest))
    bare = replace(pair, scores_calibration={}, clusters_in=None, clusters_out=None)
    ends = replace(bare, scores_in={DEFAULT_DETECTOR: swapped[0]}, scores_out={DEFAULT_DETECTOR: swapped[1]})
    # draws of its own for every model, pair and B: the same ones in all of them would not average out
    rng = np.random.default_rng([SEED, int(out.card.digest(), 16)])
    return {
        "halves of the in-distribution test part": shuffled(pair, inside, len(inside) // 2, rng),
        "labels shuffled": shuffled(pair, np.concatenate([inside, outside]), len(inside), rng),
        "fitted on the OOD set": resampled(ends),
    }


def shuffled(pair: PairScores, scores: Scores, n_in: int, rng: np.random.Generator) -> ResampledPair:
    """Return the AUROC of scores of which a random n_in are called in-distribution: mean and all draws."""
    draws = np.array([auroc(*np.split(rng.permutation(scores), [n_in])) for _ in range(REPLICATES)])
    return without_splits(
        ResampledPair(
            pair.in_dist,
            pair.out_dist,
            pair.group_size,
            n_in,
            len(scores) - n_in,
            Bootstrap(SEED, REPLICATES),
            {DEFAULT_DETECTOR: {"auroc": float(draws.mean())}},
            {DEFAULT_DETECTOR: {"auroc": draws}},
        )
    )


def with_scores(pair: PairScores, scores: Mapping[str, tuple[Scores, Scores]]) -> PairScores:
    """Return the pair with further scores of the same samples."""
    return replace(
        pair,
        scores_in={**pair.scores_in, **{name: both[0] for name, both in scores.items()}},
        scores_out={**pair.scores_out, **{name: both[1] for name, both in scores.items()}},
    )


def only_named(pair: PairScores, names: Collection[str]) -> PairScores:
    """Return the pair with the named scores alone: every one costs a thousand resamples."""
    inside, outside = ({n: scores[n] for n in names} for scores in (pair.scores_in, pair.scores_out))
    return replace(pair, scores_in=inside, scores_out=outside)


def resampled(pair: PairScores) -> ResampledPair:
    """Return the pair with its replicates and the names of its sets without their split."""
    return without_splits(resample_pair(pair, seed=SEED, replicates=REPLICATES))


def extra_cases(context: Context, place: Place, target: Target, settings: Settings) -> list[Case]:
    """Return the default averaged over noise draws and on an untrained model of the same settings, at each B."""
    # the context takes twice as many in-distribution samples as OOD ones; here both are as many
    in_dist = context.batches(place.in_dist, target, limit=settings.extra)
    out = context.batches(place.out_dists[0], target, limit=settings.extra)
    how = context.evaluation_settings(NAMED, context.experiment.group_sizes)
    scored = score_sets(target, in_dist, [out], how, report=context.progress(target.name))
    fresh = untrained(read_head(settings.zoo / place.model), settings.data_root)
    twin = Target(fresh, None, f"{target.name}, untrained")
    of_twin = score_sets(twin, in_dist, [out], how, report=context.progress(twin.name))
    found = []
    for size, group in scored.groups.items():
        parts, ood, pair = of_pair(group)
        noisy = {
            name: [table, *(noise_table(context, target, data, table, seed) for seed in range(1, max(DRAWS)))]
            for name, data, table in (
                ("fit", in_dist, parts["fit"]),
                ("test", in_dist, parts["test"]),
                ("out", out, ood),
            )
        }
        scores = {}
        for draws in DRAWS:
            mean = {name: averaged(tables[:draws]) for name, tables in noisy.items()}
            for base, make in BASES.items():
                _, scores[draws_name(base, draws)] = fit_and_score(make, **mean)
        *_, bare = of_pair(of_twin.groups[size])
        scores |= {untrained_name(name): (bare.scores_in[name], bare.scores_out[name]) for name in bare.scores_in}
        found.append(Case(place.family, resampled(with_scores(pair, scores))))
    return found


def noise_table(context: Context, target: Target, data: Batches, table: Table, seed: int) -> Table:
    """Return the default's features of a table's samples under the model's noise of another seed."""
    row_of = {name: row for row, name in enumerate(data.ids)}
    chosen = data.select([row_of[name] for ids in table.ids for name in ids])
    blocks, how = make_detector(DEFAULT_DETECTOR).requires, ExtractSettings(table.card.group_size, seed)
    progress = context.progress(f"{target.name}, noise {seed}")
    return kept_table(context.settings.tables, target, chosen, blocks, how, report=partial(progress, data.name))


def untrained(head: Head, data_root: str | None) -> nn.Module:
    """Return a new model of a saved one's settings, with what it takes from a first batch, as before a first step."""
    model = make_model(head.family, **head.config)
    if isinstance(model, InitialisedFromData):
        first = load_samples(head.card.data, data_root=data_root, limit=INITIAL_BATCH, seed=SEED)
        model.initialise(torch.from_numpy(first.x), seed=SEED, keys=first.keys)
    return model.eval()


def short_cases(context: Context, place: Place, target: Target, name: str, folder: Path) -> list[Short]:
    """Return the default on a model that was trained for fewer steps, where it is of the place's family and set."""
    head, full = read_head(folder), cast(GenerativeModel, target.module).card
    if (head.family, head.card.data.partition("[")[0]) != (place.family, place.in_dist):
        return []
    short, limit = load_target(folder), context.experiment.limit
    found = []
    for mine, other in zip(groups(context, place, target, limit), groups(context, place, short, limit), strict=True):
        *_, pair = of_pair(mine)
        *_, bare = of_pair(other)
        scores = {name: (bare.scores_in[DEFAULT_DETECTOR], bare.scores_out[DEFAULT_DETECTOR])}
        case = Case(place.family, resampled(with_scores(pair, scores)))
        found.append(Short(name, head.card.steps, full.steps, case))
    return found
