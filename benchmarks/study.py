"""Write docs/study.md: which score tells best what a model has never learnt, and by how much.

Command: python benchmarks/study.py [--models NAME ...] [--anew [DETECTOR ...]] [--zoo DIR] [--data-root DIR]
[--work DIR] [--limit N]
Scores are kept in benchmarks/scores: a run scores what has none, and writes the page of all models that have them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from study_grid import (
    CANDIDATES,
    EXACT,
    FAMILIES,
    PAPER,
    REPLICATES,
    RIVALS,
    Case,
    Grid,
    Settings,
    run_grid,
    study_parser,
)

from fisherscope.core.store import write_atomic, write_json
from fisherscope.detectors import DEFAULT_DETECTOR
from fisherscope.evaluation import Interval, average, compare
from fisherscope.models.zoo import zoo_root

DOCS = Path(__file__).parents[1] / "docs"

HEAD = """# The study: which score, and by how much

Written by `{command}`; do not edit by hand. All figures are in [study.json](study.json).

Mean AUROC over pairs of sets; out-of-distribution (OOD) is the positive class and a higher score means more novel. In
brackets a 95 % paired bootstrap interval ({replicates:,} resamples, seed 0; gtsrb by track at B = 1): it covers the
draw of the test samples, not [another training run](study_runs.md). Groups of five are drawn as if independent, so on
gtsrb their intervals are too narrow. {samples} Every detector sees the same models and samples.

**Choices were made on the development pairs alone** (fashion_mnist ↔ mnist, cifar10 ↔ gtsrb). cifar10 → celeba and
cifar10 → tiny_imagenet32 had been looked at before the study began and count as *seen*. The other eight pairs are the
*headline*: reported, never chosen on.

Not in the tables, because they need many passes over the model: likelihood regret, local intrinsic dimension and
DDPM-OOD; the leaderboard ([reproduction](reproduction/index.md)) has them on a few images of the development models.
WAIC has an ensemble of three seeds, of Glow on fashion_mnist and cifar10; the likelihood ratio a background model of
those two, trained for half as many steps on images of which a fifth of the values are noise.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    parser = study_parser(__doc__, 1000)
    parser.add_argument(
        "--models", nargs="*", metavar="NAME", help="which models to score if they have no scores yet; by default all"
    )
    parser.add_argument(
        "--anew",
        nargs="*",
        metavar="DETECTOR",
        help="score these detectors although they have scores; without names all of them",
    )
    options = parser.parse_args(arguments)
    settings = Settings(options.zoo, options.work, options.data_root, options.limit)
    grid = run_grid(settings, options.models, anew=options.anew)
    # Where models and data lie differs from machine to machine and is no part of the result.
    given = [f"--limit={options.limit}"] * (options.limit != 1000) + ["--zoo=DIR"] * (options.zoo != zoo_root())
    command = shlex.join(["python", "benchmarks/study.py", *given])
    page, figures = write_page(grid, command)
    write_json(DOCS / "study.json", figures)
    write_atomic(DOCS / "study.md", page.encode())
    print(page)


def write_page(grid: Grid, command: str) -> tuple[str, dict[str, Any]]:
    """Return the page and its figures."""
    cases = grid.cases
    figures: dict[str, Any] = {
        "missing_models": dict(grid.missing),
        "made_by": _by_code(grid.made_by),
        "default": DEFAULT_DETECTOR,
        "means": [],
        "cells": [],
    }
    sections = [
        HEAD.format(command=command, replicates=REPLICATES, samples=_samples(cases)),
        _missing(cases, grid.missing),
        _made_by(figures["made_by"]),
        _verdict(cases, figures),
        _losses(cases, figures),
        _choice(cases, figures),
        *(_means(cases, role, figures) for role in ("headline", "seen", "development", "all")),
        _of_few(cases, figures),
        _cells(cases, figures),
    ]
    return "\n".join(section for section in sections if section), figures


def _samples(cases: Sequence[Case]) -> str:
    singles = [c.pair for c in cases if c.pair.group_size == 1]
    n_in = sorted({p.n_in for p in singles})
    n_out = sorted({p.n_out for p in singles})
    return f"In-distribution {_range(n_in)} test samples and twice as many to fit, OOD {_range(n_out)}."


def _range(counts: Sequence[int]) -> str:
    return " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "no"


def _missing(cases: Sequence[Case], missing: Mapping[str, str]) -> str:
    """Say what is not measured, so that no mean is taken for more than it is."""
    if not missing:
        return ""
    done = {role: len(_select(cases, 1, role)) for role in ("development", "seen", "headline")}
    return (
        f"Models that the page is without: {', '.join(f'{name} ({why})' for name, why in missing.items())}. Measured "
        f"are {done['development']} of the 12 combinations of a family and a development pair, {done['seen']} of 6 "
        f"seen ones and {done['headline']} of the 24 headline ones; the means below are over those.\n"
    )


def _by_code(made_by: Mapping[str, Mapping[str, Mapping[str, str]]]) -> dict[str, list[dict[str, list[str]]]]:
    """Return, by libraries and code, which detectors of which models they scored; no detectors: all others."""
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for model, detectors in made_by.items():
        own: dict[str, list[str]] = {}
        for name, by in detectors.items():
            libraries = ", ".join(f"{library} {version}" for library, version in by.items() if library != "code")
            own.setdefault(f"{libraries}, code `{by['code']}`", []).append(name)
        for code, names in own.items():
            few = () if len(names) > len(detectors) / 2 else tuple(names)
            found.setdefault(code, {}).setdefault(few, []).append(model)
    return {
        code: [{"detectors": list(names), "models": models} for names, models in parts.items()]
        for code, parts in found.items()
    }


def _made_by(by_code: Mapping[str, list[dict[str, list[str]]]]) -> str:
    """Say which code scored what."""
    if len(by_code) < 2:
        return "".join(f"All scored by {code}.\n" for code in by_code)
    lines = []
    for code, parts in by_code.items():
        said = [" of ".join(", ".join(names) for names in part.values() if names) for part in parts]
        lines.append(f"Scored by {code}: {'; '.join(said)}.\n")
    return "".join(lines)


def _select(cases: Sequence[Case], size: int, role: str = "all", family: str | None = None) -> list[Case]:
    return [
        c
        for c in cases
        if c.pair.group_size == size and role in ("all", c.role) and (family is None or c.family == family)
    ]


def _verdict(cases: Sequence[Case], figures: dict[str, Any]) -> str:
    """Say by how much the default beats the paper's score and the rivals."""
    lines = [f"## `{DEFAULT_DETECTOR}`, the default, against the rest\n"]
    for role, called in (("headline", "Headline pairs"), ("all", "All pairs")):
        for size in (1, 5):
            chosen = _select(cases, size, role)
            if not chosen:
                continue
            rows = [
                f"| {name} | {_mean(chosen, name).estimate:.3f} | {signed(_difference(chosen, name))} |"
                for name in (PAPER, *RIVALS)
            ]
            mine = _mean(chosen, DEFAULT_DETECTOR)
            lines.append(
                f"{called}, B = {size}, {len(chosen)} models and pairs: {DEFAULT_DETECTOR} {plain(mine)}.\n\n"
                "| against | its mean AUROC | the default minus it |\n| --- | :-: | :-: |\n" + "\n".join(rows) + "\n"
            )
            figures.setdefault("verdict", []).append(
                {"role": role, "group_size": size, "n": len(chosen), "default": as_json(mine)}
                | {name: as_json(_difference(chosen, name)) for name in (PAPER, *RIVALS)}
            )
    return "\n".join(lines)


def _losses(cases: Sequence[Case], figures: dict[str, Any]) -> str:
    """List first where the default is beaten by one of the rivals that it should beat."""
    rows = []
    for case in cases:
        beaten = {name: _difference([case], name) for name in (PAPER, *RIVALS)}
        for name, difference in beaten.items():
            if difference.high < 0:
                rows.append((case, name, difference))
    figures["losses"] = [
        {
            "family": c.family,
            "sets": list(c.sets),
            "group_size": c.pair.group_size,
            "to": name,
            "difference": as_json(d),
        }
        for c, name, d in rows
    ]
    families = _family_losses(cases, figures)
    if not rows:
        return f"## Where it loses\n\n{families}On no single pair with an interval below 0.\n"
    table = [
        f"| {c.family}: {c.sets[0]} → {c.sets[1]}, B = {c.pair.group_size} ({c.role}) | {name} "
        f"| {_mean([c], DEFAULT_DETECTOR).estimate:.3f} | {_mean([c], name).estimate:.3f} | {signed(d)} |"
        for c, name, d in sorted(rows, key=lambda row: row[2].estimate)
    ]
    return (
        f"## Where it loses\n\n{families}"
        "Every single model and pair on which one of these rivals is better, the difference's interval below 0:\n\n"
        "| model and pair | rival | default | rival's AUROC | difference |\n| --- | --- | :-: | :-: | :-: |\n"
        + "\n".join(table)
        + "\n"
    )


def _unbeaten(cases: Sequence[Case]) -> Iterator[tuple[str, int, str, float, float, Interval]]:
    """Yield (family, B, detector, the default's mean, its mean, their difference) of all that are not clearly beaten.

    Detectors that nobody named beforehand are many, and count where they are clearly better.
    """
    for family in (*FAMILIES, "all"):
        for size in (1, 5):
            chosen = _select(cases, size, "headline", None if family == "all" else family)
            for name in (n for n in _names(chosen) if n != DEFAULT_DETECTOR and _runs_on(chosen, n)):
                difference = _difference(chosen, name)
                if difference.high < 0 or (_is_rival(name) and difference.low <= 0 and family != "all"):
                    mine, theirs = (_mean(chosen, n).estimate for n in (DEFAULT_DETECTOR, name))
                    yield family, size, name, mine, theirs, difference


def _is_rival(name: str) -> bool:
    return name in (PAPER, *RIVALS)


def _family_losses(cases: Sequence[Case], figures: dict[str, Any]) -> str:
    losses = list(_unbeaten(cases))
    if not losses:
        return ""
    figures["family_losses"] = [
        {"family": family, "group_size": size, "to": name, "difference": as_json(difference)}
        for family, size, name, _, _, difference in losses
    ]
    parts = []
    for title, named in (
        ("In the mean over the headline pairs of one family these rivals are not clearly beaten:", True),
        (
            "Of all other detectors these are clearly better there (the difference's interval below 0; of so many "
            "some are by chance):",
            False,
        ),
    ):
        rows = [
            f"| {family}, B = {size} | {name} | {mine:.3f} | {theirs:.3f} | {signed(difference)} |"
            for family, size, name, mine, theirs, difference in losses
            if _is_rival(name) == named
        ]
        if rows:
            head = "| family | rival | default | rival's mean AUROC | difference |\n| --- | --- | :-: | :-: | :-: |\n"
            parts.append(f"{title}\n\n{head}" + "\n".join(rows))
    return "\n\n".join(parts) + (
        "\n\nTried on development pairs, and not better there: other numbers of components, of normals and of noise "
        "draws, weights or biases alone, p-values combined with those of the rivals that win ([ablations]"
        "(study_ablations.md)), sketches whitened or equalised, and the other densities and metrics of the table of "
        "the choice, below. One-sided terms beside the densities gain at one group size what they lose at the other: "
        "in how far log p falls short of what the code lengths let expect (better at B = 1), in the mean log norm of "
        "the layers, and in Rao's statistic of a sketch (both better at B = 5). Judging gradients and log p given the "
        "code lengths, without how frequent these are themselves, loses there and gains on the seen pairs. A Glow's "
        "density of the latents and log-determinant, judged one by one as a VAE's terms are, lose much at B = 1; the "
        "whole gradient beside the terms, and one density of all terms' log p, change nothing to speak of.\n\n"
    )


def _choice(cases: Sequence[Case], figures: dict[str, Any]) -> str:
    """Show the evidence for the default: all candidates on the development pairs."""
    scored = {}
    for name in (PAPER, *CANDIDATES):
        sizes = [_select(cases, size, "development") for size in (1, 5)]
        if all(sizes):
            scored[name] = [_mean(chosen, name) for chosen in sizes]
    if not scored:
        return ""
    order = sorted(scored, key=lambda name: -scored[name][0].estimate)
    figures["choice"] = [{"detector": n, "b1": as_json(scored[n][0]), "b5": as_json(scored[n][1])} for n in order]
    rows = [f"| {_bold(n)} | {plain(scored[n][0])} | {plain(scored[n][1])} |" for n in order]
    return (
        "## The choice of the default\n\n"
        "All scores of the gradient on the development pairs, every family together:\n\n"
        "| detector | B = 1 | B = 5 |\n| --- | :-: | :-: |\n" + "\n".join(rows) + f"\n\n{_estimates(cases, figures)}"
    )


def _estimates(cases: Sequence[Case], figures: dict[str, Any]) -> str:
    """Say what the default has of judging terms and loses by estimating norms: on which pairs, under which family."""
    figures["estimates"], rows = {}, []
    for role, family, size in product(("development", "seen", "headline"), (*FAMILIES, None), (1, 5)):
        chosen = _select(cases, size, role, family)
        if not chosen:
            continue
        gain, name = _difference(chosen, EXACT), family or "all"
        figures["estimates"][f"{role}, {name}, b{size}"] = as_json(gain)
        rows.append(f"| {role} | {name} | {size} | {signed(gain)} |")
    return (
        f"`{EXACT}` reads the exact norms of convolution kernels, which the default estimates from random projections "
        "for [the cost's sake](default_cost.md), and the whole gradient of VAEs and diffusion models, of which the "
        "default takes the terms one by one. The default minus it:\n\n"
        "| pairs | family | B | difference |\n| --- | --- | :-: | :-: |\n" + "\n".join(rows) + "\n"
    )


def _means(cases: Sequence[Case], role: str, figures: dict[str, Any]) -> str:
    sections = []
    for size in (1, 5):
        chosen = _select(cases, size, role)
        if not chosen:
            continue
        parts = {f: part for f in FAMILIES if (part := _select(chosen, size, "all", f))} | {"all": chosen}
        names = _names(chosen)
        means = {n: {k: _mean(part, n) for k, part in parts.items() if _runs_on(part, n)} for n in names}
        names = [n for n in names if means[n]]
        order = sorted(names, key=lambda n: -sum(m.estimate for m in means[n].values()) / len(means[n]))
        rows = []
        for name in order:
            cells = [plain(means[name][k]) if k in means[name] else "–" for k in parts]
            rows.append(f"| {_bold(name)} | {' | '.join(cells)} |")
            figures["means"].append(
                {"role": role, "group_size": size, "detector": name} | {k: as_json(m) for k, m in means[name].items()}
            )
        head = f"| detector | {' | '.join(parts)} |\n| --- |{' :-: |' * len(parts)}\n"
        sections.append(f"B = {size}, {len(chosen)} models and pairs:\n\n{head}" + "\n".join(rows) + "\n")
    title = {"all": "All pairs", "seen": "Seen pairs"}.get(role, f"{role.capitalize()} pairs")
    return f"## {title}\n\n" + "\n".join(sections) if sections else ""


def _of_few(cases: Sequence[Case], figures: dict[str, Any]) -> str:
    """Show the detectors that no family has on all of its models, beside the default on the same cases."""
    rows = []
    for size in (1, 5):
        chosen = _select(cases, size)
        families = [part for f in FAMILIES if (part := _select(chosen, size, "all", f))]
        for name in (n for n in _names(chosen) if not any(_runs_on(part, n) for part in families)):
            having = [c for c in chosen if name in c.pair.estimates]
            on = ", ".join(dict.fromkeys(f"{c.family} of {c.sets[0]}" for c in having))
            means, difference = [_mean(having, n) for n in (name, DEFAULT_DETECTOR)], _difference(having, name)
            rows.append(
                f"| {name}, B = {size} | {on} ({len(having)}) | {' | '.join(plain(m) for m in means)} "
                f"| {signed(difference)} |"
            )
            figures.setdefault("of_few", []).append(
                {"detector": name, "group_size": size, "cases": [[c.family, *c.sets] for c in having]}
                | {"mean": as_json(means[0]), "default": as_json(means[1])}
                | {"difference": as_json(difference)}
            )
    if not rows:
        return ""
    return (
        "## Detectors that only some models serve\n\n"
        f"| detector | models (pairs) | its mean AUROC | {DEFAULT_DETECTOR} on the same | difference |\n"
        "| --- | --- | :-: | :-: | :-: |\n" + "\n".join(rows) + "\n"
    )


def _cells(cases: Sequence[Case], figures: dict[str, Any]) -> str:
    """Put every single AUROC of the main detectors on the page, and of all of them into the figures."""
    shown = (DEFAULT_DETECTOR, PAPER, "rao-sketch", *RIVALS)
    rows = []
    for case in cases:
        names = [*case.pair.estimates]
        figures["cells"].append(
            {"family": case.family, "in_dist": case.sets[0], "out_dist": case.sets[1], "role": case.role}
            | {"group_size": case.pair.group_size, "n_in": case.pair.n_in}
            | {"n_out": case.pair.n_out, "auroc": {n: as_json(_mean([case], n)) for n in names}}
        )
        cells = [f"{_mean([case], n).estimate:.3f}" for n in shown]
        rows.append(
            f"| {case.family}: {case.sets[0]} → {case.sets[1]}, B = {case.pair.group_size} | {' | '.join(cells)} |"
        )
    return (
        "## Every model and pair\n\n"
        f"| model and pair | {' | '.join(shown)} |\n| --- |{' :-: |' * len(shown)}\n" + "\n".join(rows) + "\n"
    )


def _mean(cases: Sequence[Case], name: str) -> Interval:
    """Return the mean AUROC."""
    return average([c.pair for c in cases], name)


def _names(cases: Sequence[Case]) -> list[str]:
    return list(dict.fromkeys(n for c in cases for n in c.pair.estimates))


def _runs_on(cases: Sequence[Case], name: str) -> bool:
    """Whether a detector ran on all of the cases: some are for one family alone."""
    return all(name in c.pair.estimates for c in cases)


def _difference(cases: Sequence[Case], name: str) -> Interval:
    return compare([c.pair for c in cases], DEFAULT_DETECTOR, name).difference


def _bold(name: str) -> str:
    return f"**{name}**" if name == DEFAULT_DETECTOR else name


def plain(interval: Interval) -> str:
    """Format a mean with its interval."""
    return f"{interval:.3f}"


def signed(interval: Interval) -> str:
    """Format a difference with its interval."""
    return f"{interval:+.3f}"


def as_json(interval: Interval) -> list[float]:
    """Return estimate, lower and upper end."""
    return [round(v, 4) for v in (interval.estimate, interval.low, interval.high)]


if __name__ == "__main__":
    main()
