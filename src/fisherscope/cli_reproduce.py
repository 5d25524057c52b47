"""The command that makes the paper's tables and figures: reproduce. :mod:`fisherscope.cli` mounts it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fisherscope.config import ExperimentConfig
    from fisherscope.pipeline.reproduce.run import Plan

app = typer.Typer(rich_markup_mode=None)


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Experiment, or a .toml file of your own.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the experiments.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which models and sets it would use.")] = False,
    models: Annotated[
        str, typer.Option(metavar="zoo|DIR", help="Models: the zoo's, or those of a folder, called FAMILY-SET.")
    ] = "zoo",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for results [default: runs/reproduction/NAME].")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Cached feature tables [default: runs/reproduction/tables].")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Only these model families; may be repeated.")
    ] = None,
    id_datasets: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Only these in-distribution sets; may be repeated.")
    ] = None,
    datasets: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Only these sets to compare with; may be repeated.")
    ] = None,
    detectors: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Detectors, or 'all'; may be repeated.")
    ] = None,
    group_size: Annotated[list[int] | None, typer.Option(metavar="B", help="Group size; may be repeated.")] = None,
    timestep: Annotated[
        list[int] | None, typer.Option(metavar="T", help="Timestep of diffusion models; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Compare at most so many samples a set.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=JSON", help="An experiment's own option; may be repeated."),
    ] = None,
    replicates: Annotated[int, typer.Option(help="Resamples of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1, ...")] = "cpu",
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory for the gradient pass, e.g. 500MB or 2GiB.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", envvar="FISHERSCOPE_DATA", help="Folder of named sets.", metavar="DIR")
    ] = None,
) -> None:
    """Make a table or figure of the paper from the models and sets that are there; features are cached.

    Writes figures (PNG, PDF), tables (Markdown, LaTeX) and results.json.

    Example: fisherscope reproduce table-auroc --family glow --limit 200
    """
    from fisherscope.cli import command_line, parse_bytes, progress_bar
    from fisherscope.core.errors import SettingError
    from fisherscope.pipeline.reproduce.context import TABLES, RunSettings
    from fisherscope.pipeline.reproduce.run import OUT, plan
    from fisherscope.pipeline.reproduce.run import reproduce as run_experiment

    if list_all:
        _print_list()
        return
    if name is None:
        raise SettingError("no experiment was named; see them with: fisherscope reproduce --list")
    experiment = _experiment(
        name,
        {"families": _names(family), "in_dist": _names(id_datasets), "sets": _names(datasets)},
        {"detectors": _detectors(detectors), "group_sizes": group_size, "timesteps": timestep, "limit": limit},
        options or [],
    )
    settings = RunSettings(
        data_root=data_root,
        models=None if models == "zoo" else Path(models),
        tables=tables or TABLES,
        seed=seed,
        replicates=replicates,
        device=device,
        max_memory=parse_bytes(max_memory),
    )
    if dry_run:
        _print_plan(name, plan(experiment, settings))
        return
    stem = Path(name).stem
    with progress_bar(stem, "") as update:
        made = run_experiment(
            stem,
            experiment,
            settings,
            out or OUT / stem,
            command=command_line(),
            report=lambda what, done, total: update(done, total, what),
        )
    for table_name, table in made.outcome.tables.items():
        print(f"{table_name}\n\n{table.markdown()}")
    print(made.outcome.note)
    _print_skipped(made.skipped)
    print(f"{made.seconds:.0f} seconds; results: {made.files[-1].parent}")


def _names(given: list[str] | None) -> list[str]:
    return [name for text in given or [] for name in text.split(",") if name]


def _detectors(given: list[str] | None) -> list[str]:
    from fisherscope.detectors import detector_names

    names = _names(given)
    return list(detector_names()) if names == ["all"] else names


def _experiment(
    name: str, kept: dict[str, list[str]], replaced: dict[str, Any], options: list[str]
) -> ExperimentConfig:
    """Return the experiment of a name with what the command line changes in it, checked again."""
    from fisherscope.cli_models import parse_settings
    from fisherscope.config import ExperimentConfig, check
    from fisherscope.pipeline.reproduce.experiments import narrow, read_experiment

    experiment = narrow(read_experiment(name), **kept)
    changes = {field: value for field, value in replaced.items() if value}
    values = experiment.model_dump() | changes
    values["options"] = experiment.options | parse_settings(options)
    return check(ExperimentConfig, values, name)


def _print_list() -> None:
    from fisherscope.pipeline.reproduce.run import list_experiments

    for entry in list_experiments():
        print(f"{entry['name']:<26} {entry['minutes']:>5g} min  {entry['makes']}")


def _print_plan(name: str, found: Plan) -> None:
    print(f"{name}: at most {found.minutes:g} minutes with the zoo's models on two cores")
    for case in found.cases:
        print(f"  {case.label} of {case.in_dist}: against {', '.join(case.out_dists) or 'nothing'}")
    _print_skipped(dict(found.skipped))


def _print_skipped(skipped: Any) -> None:
    for what, why in skipped.items():
        print(f"skipped: {what}, {why}")
