"""Write docs/study_ablations.md: what each part of the default is worth, on the development pairs alone.

Command: python benchmarks/study_ablations.py [--models NAME ...] [--limit N] [--extra N] [--shorter NAME=DIR ...]
Feature tables are kept under --work, and an interrupted run goes on there.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study import as_json, plain, signed
from study_ablation_scores import (
    BASES,
    COMBINED,
    COMPLEXITY,
    COMPONENTS,
    DRAWS,
    FIT_SIZES,
    GRADIENTS,
    GREY_MODELS,
    LAYERS,
    MODELS,
    MODES,
    PARTS,
    REFERENCES,
    SUBSETS,
    Settings,
    Study,
    alone_name,
    components_name,
    draws_name,
    fit_name,
    modes_name,
    run_study,
    untrained_name,
)
from study_grid import EXACT, FAMILIES, PAPER, REPLICATES, Case, study_parser

from fisherscope.core.store import write_atomic, write_json
from fisherscope.detectors import DEFAULT_DETECTOR
from fisherscope.detectors.summary import CODES
from fisherscope.evaluation import Interval, average, compare
from fisherscope.models.zoo import zoo_root

DOCS = Path(__file__).parents[1] / "docs"
LIMIT = 1000
CEILING = 0.995
EVEN = 0.5
NEAR = 0.01
UNTRAINED = (DEFAULT_DETECTOR, *PARTS, PAPER, "typicality", "likelihood")
"""Scores of untrained models that the page shows."""

HEAD = """# What each part of the default is worth

Written by `{command}`; do not edit by hand. All figures, those of the single pairs too, are in
[study_ablations.json](study_ablations.json).

`{default}` without a part, with other numbers in it, or on other features, **on the development pairs alone**
(fashion_mnist ↔ mnist, cifar10 ↔ gtsrb): nothing here was measured on the study's other pairs. The default was chosen
on these pairs, so they favour it over the other scores.

Mean AUROC over models and pairs; out-of-distribution (OOD) is the positive class. After an AUROC stands its difference
to the detector in bold above it, with a 95 % paired bootstrap interval ({replicates:,} resamples, seed 0): it covers
the draw of the test samples, not another training run. gtsrb is drawn by track at B = 1; groups of five are drawn as
if independent, so there their intervals are too narrow.
"""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: what the page calls it.
        name: of the scores.
        base: of the scores that it is compared with; None for a line that others are compared with.
    """

    label: str
    name: str
    base: str | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    parser = study_parser(__doc__, LIMIT)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="NAME", help="which of them")
    parser.add_argument(
        "--extra",
        type=int,
        default=0,
        metavar="N",
        help="measure other noise and untrained models too, with N samples a set (at least 200)",
    )
    parser.add_argument(
        "--extra-models",
        nargs="+",
        choices=MODELS,
        default=GREY_MODELS,
        metavar="NAME",
        help="for which models; those of grey sets by default",
    )
    parser.add_argument(
        "--shorter",
        nargs="+",
        default=[],
        type=named_folder,
        metavar="NAME=DIR",
        help="models that were trained for fewer steps than the zoo's of the same family and set",
    )
    options = parser.parse_args(arguments)
    study = run_study(
        Settings(
            zoo=options.zoo,
            models=tuple(options.models),
            work=options.work,
            data_root=options.data_root,
            limit=options.limit,
            extra=options.extra,
            extra_models=tuple(options.extra_models),
            shorter=dict(options.shorter),
        )
    )
    page, figures = write_page(study, command(options))
    write_json(DOCS / "study_ablations.json", figures)
    write_atomic(DOCS / "study_ablations.md", page.encode())
    print(page)


def named_folder(text: str) -> tuple[str, Path]:
    """Return name and folder of NAME=DIR."""
    name, _, folder = text.partition("=")
    if not name or not (Path(folder) / "model.json").is_file():
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=DIR with the folder of a saved model")
    return name, Path(folder)


def command(options: argparse.Namespace) -> str:
    """Return the command line without the places of models and data, which differ from machine to machine."""
    given = [f"--limit={options.limit}"] * (options.limit != LIMIT) + [f"--extra={options.extra}"] * bool(options.extra)
    given += ["--zoo=DIR"] * (options.zoo != zoo_root())
    given += ["--models", *options.models] * (tuple(options.models) != MODELS)
    other = options.extra and tuple(options.extra_models) != GREY_MODELS
    given += ["--extra-models", *options.extra_models] * bool(other)
    given += ["--shorter", *(f"{name}=DIR" for name, _ in options.shorter)] * bool(options.shorter)
    return shlex.join(["python", "benchmarks/study_ablations.py", *given])


def write_page(study: Study, line: str) -> tuple[str, dict[str, Any]]:
    """Return the page and its figures."""
    figures: dict[str, Any] = {"default": DEFAULT_DETECTOR, "missing_models": list(study.missing), "tables": {}}
    parts = [
        HEAD.format(command=line, default=DEFAULT_DETECTOR, replicates=REPLICATES),
        models(study),
        worth(study, figures),
        better(study, figures),
        section("1. Parts, and other scores", PARTS_TEXT, study.main, part_rows(), figures),
        section("2. Number of principal components", COMPONENTS_TEXT, study.main, component_rows(study), figures),
        section("3. Number of fit samples", FIT_TEXT, study.fit_sizes, fit_rows(), figures),
        section("4. Number of normals", MODES_TEXT, study.main, mode_rows(), figures),
        section("5. Weights, or biases and scales", LAYERS_TEXT, study.main, layer_rows(), figures),
        extra(study, figures),
        controls(study, figures),
        shorter(study, figures),
    ]
    figures["cells"] = [cell for cases in (study.main, study.fit_sizes, study.extra) for cell in cells(cases)]
    return "\n".join(part for part in parts if part), figures


PARTS_TEXT = (
    f"`{GRADIENTS}` leaves the code lengths out, `{COMPLEXITY}` the gradients; *code_length alone* has the "
    "context code and not the predictive one, *predictive_length alone* the other way round; "
    f"`{EXACT}` has exact norms, which the default estimates of convolution kernels, and the whole gradient of "
    "VAEs and diffusion models, of which the default takes the terms one by one; "
    "`combined:A+B` is Fisher's statistic of the p-values of A and B; "
    f"`{PAPER}` is the paper's score, `dose-kde` the density of states with the family's own statistics."
)
COMPONENTS_TEXT = (
    "k is the largest number of components; 95 % of the variance or a tenth of the fit groups may allow fewer. "
    "In brackets the numbers that came of it, over models and group sizes."
)
FIT_TEXT = (
    f"Random parts of the fit samples, the same test samples; each figure is the mean over {SUBSETS} parts. "
    f"`{DEFAULT_DETECTOR}` and `{GRADIENTS}` have all of them. Groups of 5 make a fifth as many fit rows."
)
MODES_TEXT = "Up to so many normals in either mixture, by BIC."
LAYERS_TEXT = "Log f_l of matrices and kernels alone (weights), and of all other parameters alone."
DRAWS_TEXT = (
    "Features are means of log f_l and log p over draws of the model's noise (a VAE's latents, a diffusion's noise, "
    "Glow's dequantisation). The lines in bold have one draw, as the detector does."
)
UNTRAINED_TEXT = (
    "The same detectors on a model of the same settings with its initial weights (Glow's actnorm set from a first "
    "batch, as before the first step), against the trained one."
)


def part_rows() -> list[Row]:
    """Return the lines of the parts and the references."""
    others = (*PARTS, EXACT, *(alone_name(DEFAULT_DETECTOR, code) for code in CODES), *COMBINED, *REFERENCES)
    return [Row(DEFAULT_DETECTOR, DEFAULT_DETECTOR), *(Row(name, name, DEFAULT_DETECTOR) for name in others)]


def component_rows(study: Study) -> list[Row]:
    """Return the lines of the limits on components, with the numbers that they led to."""
    rows = []
    for base in BASES:
        rows.append(Row(base, base))
        for k in COMPONENTS:
            name = components_name(base, k)
            used = study.components[name]
            rows.append(Row(f"{name} [{min(used)} to {max(used)}]", name, base))
    return rows


def fit_rows() -> list[Row]:
    """Return the lines of the numbers of fit samples."""
    return _with_bases(lambda base: [fit_name(base, size) for size in FIT_SIZES])


def mode_rows() -> list[Row]:
    """Return the lines of the limits on normals."""
    return _with_bases(lambda base: [modes_name(base, m) for m in MODES])


def layer_rows() -> list[Row]:
    """Return the lines of the kinds of parameters."""
    return _with_bases(lambda base: [alone_name(base, which) for which in LAYERS])


def draw_rows() -> list[Row]:
    """Return the lines of the numbers of noise draws."""
    return _with_bases(lambda base: [draws_name(base, draws) for draws in DRAWS])


def untrained_rows() -> list[Row]:
    """Return the lines of the untrained models, each detector against itself."""
    return [row for n in UNTRAINED for row in (Row(n, n), Row(untrained_name(n), untrained_name(n), n))]


def _with_bases(names: Any) -> list[Row]:
    return [row for base in BASES for row in (Row(base, base), *(Row(n, n, base) for n in names(base)))]


def models(study: Study) -> str:
    """Say what was measured, and what was not."""
    lines = ["## Models and samples\n"]
    for case in (c for c in study.main if c.pair.group_size == 1):
        n_out = f"{case.pair.n_out:,} OOD samples"
        lines.append(f"- {case.family}: {case.sets[0]} → {case.sets[1]}, {case.pair.n_in:,} test samples, {n_out}")
    if study.missing:
        lines.append(f"\nNot there, or without the other set: {', '.join(study.missing)}.")
    high = [c for c in study.main if c.pair.estimates[DEFAULT_DETECTOR]["auroc"] >= CEILING]
    lines.append(
        f"\nOf these models and pairs at both group sizes ({len(study.main)}) the default has an AUROC of at least "
        f"{CEILING} in {len(high)}: there a change can only show that it costs something. `{GRADIENTS}` is therefore "
        "changed beside it."
    )
    return "\n".join(lines) + "\n"


def worth(study: Study, figures: dict[str, Any]) -> str:
    """Say what the default has of its parts, of judging single terms by estimated norms too, over all models."""
    lines, figures["worth"] = [], {}
    for without, part in (
        (GRADIENTS, "code lengths"),
        (COMPLEXITY, "gradients"),
        (EXACT, "single terms and estimates of norms"),
    ):
        said = []
        for size in (1, 5):
            gain = difference([c for c in study.main if c.pair.group_size == size], DEFAULT_DETECTOR, without)
            figures["worth"][f"{part}, B = {size}"] = as_json(gain)
            verdict = "more" if gain.low > 0 else "less" if gain.high < 0 else "not to be told from 0"
            said.append(f"{signed(gain)} at B = {size} ({verdict})")
        lines.append(f"- What the {part} bring (default minus `{without}`): {', '.join(said)}.")
    return "## What the parts are worth\n\n" + "\n".join(lines) + "\n"


def better(study: Study, figures: dict[str, Any]) -> str:
    """List what beats the detector it is compared with, its interval above 0: over all models, and by family."""
    tried = [(study.main, row) for row in (*part_rows(), *component_rows(study), *mode_rows(), *layer_rows())]
    tried += [(study.fit_sizes, row) for row in fit_rows()] + [(study.extra, row) for row in draw_rows()]
    compared = [
        (row, size, family, mean(chosen, row.name), difference(chosen, row.name, row.base))
        for cases, row in tried
        for size in (1, 5)
        for family, chosen in by_family([c for c in cases if c.pair.group_size == size]).items()
        if row.base is not None and there(chosen, row.name)
    ]
    found = [one for one in compared if one[4].low > 0]
    found.sort(key=lambda one: (one[2] != "all", -one[4].estimate))
    figures["better"] = [
        {"name": row.name, "than": row.base, "group_size": size, "models": family, "difference": as_json(gain)}
        for row, size, family, _, gain in found
    ]
    if not found:
        return "## What is better\n\nNothing, with an interval above 0.\n"
    lines = [
        f"| {row.name} | {row.base} | {size} | {family} | {level.estimate:.3f} | {signed(gain)} |"
        for row, size, family, level, gain in found
    ]
    return (
        "## What is better\n\n"
        f"Of {len(compared)} differences in sections 1 to 6 these {len(found)} have an interval above 0; by chance "
        "alone about one in 40 would.\n\n"
        "| change or score | than | B | models | its AUROC | difference |\n| --- | --- | :-: | --- | :-: | :-: |\n"
        + "\n".join(lines)
        + "\n"
    )


def section(title: str, text: str, cases: Sequence[Case], rows: Sequence[Row], figures: dict[str, Any]) -> str:
    """Return the tables of a section, one for each group size; nothing where nothing was measured."""
    tables = []
    for size in (1, 5):
        chosen = by_family([c for c in cases if c.pair.group_size == size])
        kept = [row for row in rows if there(chosen.get("all", []), row.name)]
        if not kept:
            continue
        lines = [f"| {_label(row)} | {' | '.join(_cell(part, row) for part in chosen.values())} |" for row in kept]
        head = f"| B = {size} | {' | '.join(chosen)} |\n| --- |{' :-: |' * len(chosen)}\n"
        tables.append(head + "\n".join(lines) + "\n")
        figures["tables"].setdefault(title, []).extend(
            {"group_size": size, "name": row.name, "than": row.base}
            | {
                family: {"auroc": as_json(mean(part, row.name))}
                | ({} if row.base is None else {"difference": as_json(difference(part, row.name, row.base))})
                for family, part in chosen.items()
            }
            for row in kept
        )
    return f"## {title}\n\n{text}\n\n" + "\n".join(tables) if tables else ""


def _label(row: Row) -> str:
    return f"**{row.label}**" if row.base is None else row.label


def _cell(cases: Sequence[Case], row: Row) -> str:
    level = mean(cases, row.name)
    if row.base is None:
        return plain(level)
    return f"{level.estimate:.3f}, {signed(difference(cases, row.name, row.base))}"


def by_family(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """Return the cases of each family that has some, and all of them."""
    parts = {family: [c for c in cases if c.family == family] for family in FAMILIES}
    return {family: part for family, part in (parts | {"all": list(cases)}).items() if part}


def there(cases: Sequence[Case], name: str) -> bool:
    """Whether there are cases, and all of them have scores of a name."""
    return bool(cases) and all(name in c.pair.estimates for c in cases)


def mean(cases: Sequence[Case], name: str) -> Interval:
    """Return the mean AUROC."""
    return average([c.pair for c in cases], name)


def difference(cases: Sequence[Case], name: str, base: str) -> Interval:
    """Return the mean of a score's AUROC minus that of another."""
    return compare([c.pair for c in cases], name, base).difference


def extra(study: Study, figures: dict[str, Any]) -> str:
    """Return the sections of noise draws and untrained models."""
    if not study.extra:
        return "## 6. Noise draws, and untrained models\n\nNot measured in this run: they need `--extra`.\n"
    counts = "; ".join(counted(c) for c in study.extra if c.pair.group_size == 1)
    untrained = f"{UNTRAINED_TEXT} Models and samples are those of section 6.\n\n{needless(study.extra, figures)}"
    return "\n".join(
        [
            section("6. Noise draws", f"{DRAWS_TEXT}\n\n{counts}.", study.extra, draw_rows(), figures),
            section("7. Untrained models", untrained, study.extra, untrained_rows(), figures),
        ]
    )


def counted(case: Case) -> str:
    """Say which model and pair a case is, and of how many samples."""
    samples = f"{case.pair.n_in:,} test and {case.pair.n_out:,} OOD samples"
    return f"{case.family}: {case.sets[0]} → {case.sets[1]}, {samples}"


def needless(cases: Sequence[Case], figures: dict[str, Any]) -> str:
    """Say how much of the AUROC above 0.5 an untrained model has already."""
    figures["untrained_share"], said = {}, []
    for name in (DEFAULT_DETECTOR, *PARTS):
        shares = []
        for size in (1, 5):
            chosen = [c for c in cases if c.pair.group_size == size]
            share = (mean(chosen, untrained_name(name)).estimate - EVEN) / (mean(chosen, name).estimate - EVEN)
            figures["untrained_share"][f"{name}, B = {size}"] = round(share, 4)
            shares.append(f"{100 * share:.0f} % (B = {size})")
        said.append(f"`{name}` {' and '.join(shares)}")
    return f"Of what the AUROC has above 0.5, **the untrained models have already**: {', '.join(said)}."


def controls(study: Study, figures: dict[str, Any]) -> str:
    """Return the section of what must come out at 0.5, or below."""
    figures["controls"], lines = [], []
    for name, cases in study.controls.items():
        for size in (1, 5):
            parts = by_family([c for c in cases if c.pair.group_size == size])
            means = {family: mean(part, DEFAULT_DETECTOR) for family, part in parts.items()}
            whole, below = means["all"], name.startswith("fitted")
            right = whole.high < EVEN if below else abs(whole.estimate - EVEN) <= NEAR
            figures["controls"].append(
                {"control": name, "group_size": size, "as_expected": right}
                | {family: as_json(interval) for family, interval in means.items()}
            )
            lines.append(
                f"| {name}, B = {size} | {'below 0.5' if below else '0.5'} | {'yes' if right else '**no**'} "
                f"| {' | '.join(plain(interval) for interval in means.values())} |"
            )
    families = list(by_family(study.main))
    return (
        "## 8. Controls\n\n"
        "The default on the in-distribution test part against itself in random halves, with all labels of a pair "
        "shuffled, and fitted on half of the OOD set, so that the in-distribution samples are the novel ones and the "
        f"labels are the wrong way round. The first two are means over {REPLICATES:,} draws of halves or labels, in "
        f"brackets the middle 95 % of the draws; as expected: within {NEAR} of 0.5 over all models. The last one has a "
        "bootstrap interval; as expected: below 0.5.\n\n"
        f"| control | expected | as expected | {' | '.join(families)} |\n"
        f"| --- | :-: | :-: |{' :-: |' * len(families)}\n" + "\n".join(lines) + "\n"
    )


def shorter(study: Study, figures: dict[str, Any]) -> str:
    """Return the section of models that were trained for fewer steps."""
    figures["shorter"] = [
        {"name": s.name, "steps": s.steps, "full_steps": s.full_steps, "group_size": s.case.pair.group_size}
        | {"sets": list(s.case.sets), "auroc": as_json(mean([s.case], s.name))}
        | {"difference": as_json(difference([s.case], s.name, DEFAULT_DETECTOR))}
        for s in study.shorter
    ]
    if not study.shorter:
        return ""
    lines = [
        f"| {s.name} | {s.case.family}: {s.case.sets[0]} → {s.case.sets[1]}, B = {s.case.pair.group_size} "
        f"| {s.steps:,} | {plain(mean([s.case], s.name))} "
        f"| {s.full_steps:,} | {plain(mean([s.case], DEFAULT_DETECTOR))} "
        f"| {signed(difference([s.case], s.name, DEFAULT_DETECTOR))} |"
        for s in study.shorter
    ]
    return (
        "## 9. Training length\n\nThe default on models that were trained for fewer steps, by the zoo's settings with "
        "`fisherscope train --steps`, against the zoo's.\n\n"
        "| model | pair | steps | AUROC | the zoo's steps | AUROC | difference |\n"
        "| --- | --- | :-: | :-: | :-: | :-: | :-: |\n" + "\n".join(lines) + "\n"
    )


def cells(cases: Sequence[Case]) -> list[Mapping[str, Any]]:
    """Return every single AUROC as JSON values."""
    return [
        {"family": c.family, "in_dist": c.sets[0], "out_dist": c.sets[1], "group_size": c.pair.group_size}
        | {"n_in": c.pair.n_in, "n_out": c.pair.n_out}
        | {"auroc": {name: as_json(mean([c], name)) for name in c.pair.estimates}}
        for c in cases
    ]


if __name__ == "__main__":
    main()
