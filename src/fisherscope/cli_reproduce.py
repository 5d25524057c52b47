"""The command that makes the paper's tables and figures: reproduce. :mod:`fisherscope.cli` mounts it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from fisherscope.cli_common import parse_bytes, progress_bar
from fisherscope.cli_options import DataRoot, Device, Limit, MaxMemory, Seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fisherscope.config import ExperimentConfig
    from fisherscope.pipeline.reproduce.case import RunSettings

app = typer.Typer(rich_markup_mode=None)

_SEVERAL = frozenset({"--family", "--id-datasets", "--datasets", "--detectors"})


class _SeveralWords(TyperCommand):
    """Takes ``--datasets a b c`` too, as the original repository's command line does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the words after an option that takes names by commas, up to the next option or the experiment."""
        from fisherscope.pipeline.reproduce.experiments import experiment_names

        joined: list[str] = []
        experiments, open_list = {*experiment_names(), "all"}, False
        for word in args:
            ends = word.startswith("-") or word in experiments or word.endswith(".toml")
            if open_list and not ends and joined[-1] not in _SEVERAL:
                joined[-1] += f",{word}"
            else:
                # the first word after the option is its value, whatever it is called
                open_list = word in _SEVERAL or (open_list and joined[-1] in _SEVERAL)
                joined.append(word)
        return super().parse_args(ctx, joined)


@app.command(cls=_SeveralWords)
def reproduce(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Experiment, a .toml file of your own, or 'all'.")
    ] = None,
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
    page: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write one page of all results that are there, or of those in --out."),
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
    limit: Limit = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=JSON", help="An experiment's own option; may be repeated."),
    ] = None,
    n_statistics: Annotated[
        int | None, typer.Option(metavar="N", help="Layers of each model to draw, at random; all when absent.")
    ] = None,
    fitted_distribution: Annotated[
        bool | None,
        typer.Option("--fitted-distribution/--no-fitted-distribution", help="Draw the fitted normals or not."),
    ] = None,
    replicates: Annotated[int, typer.Option(help="Resamples of the bootstrap.")] = 1000,
    seed: Seed = 0,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    data_root: DataRoot = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Fetch sets that are not in the data root from the Hugging Face hub.")
    ] = False,
) -> None:
    """Make a table or figure of the paper from the models and sets that are there; features are cached.

    Writes figures (PNG, PDF), tables (Markdown, LaTeX) and results.json.

    Example: fisherscope reproduce table-auroc --family glow --limit 200
    """
    from fisherscope.core.errors import SettingError
    from fisherscope.pipeline.reproduce.case import TABLES, RunSettings
    from fisherscope.pipeline.reproduce.experiments import experiment_names

    if list_all:
        _print_list()
        return
    if name is None:
        raise SettingError("no experiment was named; see them with: fisherscope reproduce --list")
    settings = RunSettings(
        data_root=data_root,
        models=None if models == "zoo" else Path(models),
        tables=tables or TABLES,
        seed=seed,
        replicates=replicates,
        device=device,
        max_memory=parse_bytes(max_memory),
        hub=hub,
    )
    kept = {"families": _names(family), "in_dist": _names(id_datasets), "sets": _names(datasets)}
    changes = {"detectors": _detectors(detectors), "group_sizes": group_size, "timesteps": timestep, "limit": limit}
    own = {"n_statistics": n_statistics, "fitted_distribution": fitted_distribution}
    every = name == "all"
    if every and (options or any(value is not None for value in own.values())):
        raise SettingError("--set and the layer options belong to one experiment; name it instead of 'all'")
    read = {
        single: _experiment(single, kept, changes, own, options or [], strict=not every)
        for single in (experiment_names() if every else (name,))
    }
    if dry_run:
        for single, experiment in read.items():
            _print_plan(single, experiment, settings)
        return
    places = {single: _place(single, out, every=every) for single in read}
    failed = []
    for single, experiment in read.items():
        command = _command(context, single, _of_experiment(single, kept))
        if not _run(single, experiment, settings, places[single], command, every=every):
            failed.append(single)
    if page is not None:
        _write_page(out, page, _command(context, name, {"page": "DIR"}), every=every)
    if failed:
        raise SettingError(f"the others are done, but {', '.join(failed)} failed, as said above; run each by its name")


def _place(name: str, out: Path | None, *, every: bool) -> Path:
    """Return the folder of an experiment's results; of all experiments ``out`` holds one folder each."""
    from fisherscope.pipeline.reproduce.run import OUT

    return (out or OUT) / Path(name).stem if every or out is None else out


def _run(
    name: str, experiment: ExperimentConfig, settings: RunSettings, out: Path, command: str, *, every: bool
) -> bool:
    """Run one experiment; among all, one that fails is left out. Return whether it ran or has nothing to run on."""
    from fisherscope.core.errors import FisherscopeError
    from fisherscope.pipeline.reproduce.case import NothingLeftError
    from fisherscope.pipeline.reproduce.run import reproduce as run_experiment

    stem = Path(name).stem
    try:
        with progress_bar(stem, "") as update:
            made = run_experiment(
                stem,
                experiment,
                settings,
                out,
                command=command,
                report=lambda what, done, total: update(done, total, what),
            )
    except FisherscopeError as cause:
        if not every:
            raise
        print(f"{stem}: {cause}")
        return isinstance(cause, NothingLeftError)
    for table_name, table in made.outcome.tables.items():
        if not every and table_name not in made.outcome.details:
            print(f"{table_name}\n\n{table.markdown()}")
    print(made.outcome.note)
    _print_skipped(made.skipped)
    print(f"{stem}: {made.seconds:.0f} seconds; results: {made.files[-1].parent}")
    return True


def _write_page(out: Path | None, page: Path, command: str, *, every: bool) -> None:
    """Write the page of the one experiment in ``out``, or of all that have a folder in ``out`` or the default one."""
    from fisherscope.pipeline.reproduce.page import result_folders, write_page
    from fisherscope.pipeline.reproduce.run import OUT

    folders = result_folders(out or OUT) if every or out is None else [out]
    for path in write_page(folders, page, command):
        print(path)


_PLACES = frozenset({"data_root", "out", "tables", "page"})


def _command(context: typer.Context, name: str, replaced: Mapping[str, Any]) -> str:
    """Return the command line that does the same again, on another machine too: places are left out or called DIR.

    Args:
        context: the parsed options.
        name: of the experiment.
        replaced: values to record in place of the parsed ones, by parameter.
    """
    given = {key: value for key, value in context.params.items() if key not in _PLACES}
    given |= {"models": given["models"] if given["models"] == "zoo" else "DIR", **replaced}
    words = ["fisherscope", "reproduce", _portable(name)]
    for option in context.command.params:
        value = given.get(option.name or "")
        if option.param_type_name == "option" and value is not None and value != option.default:
            words += _option_words(option.opts[0], option.secondary_opts, value)
    return shlex.join(words)


def _option_words(yes: str, no: Sequence[str], value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield yes if value else no[0]
        return
    for single in value if isinstance(value, (list, tuple)) else (value,):
        yield from (yes, str(single))


def _portable(name: str) -> str:
    """Return an experiment's name as one would type it elsewhere: of an absolute path what is below the folder here."""
    path = Path(name)
    if not path.is_absolute():
        return name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _of_experiment(name: str, kept: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the options that keep families and sets, without the names that this experiment does not have."""
    from fisherscope.pipeline.reproduce.experiments import known_names, read_experiment

    known = known_names(read_experiment(name))
    options = {"family": "families", "id_datasets": "in_dist", "datasets": "sets"}
    chosen = {option: [n for n in kept[field] if n in known[field]] for option, field in options.items()}
    return {option: [",".join(names)] if names else [] for option, names in chosen.items()}


def _names(given: list[str] | None) -> list[str]:
    return [name for text in given or [] for name in text.split(",") if name]


def _detectors(given: list[str] | None) -> list[str]:
    from fisherscope.detectors import detector_names

    names = _names(given)
    return list(detector_names()) if names == ["all"] else names


def _experiment(
    name: str,
    kept: dict[str, list[str]],
    replaced: dict[str, Any],
    named: dict[str, Any],
    options: list[str],
    *,
    strict: bool,
) -> ExperimentConfig:
    """Return the experiment of a name with what the command line changes in it, checked again."""
    from fisherscope.cli_models import parse_settings
    from fisherscope.config import ExperimentConfig, check
    from fisherscope.pipeline.reproduce.experiments import narrow, read_experiment

    experiment = narrow(read_experiment(name), **kept, strict=strict)
    changes = {field: value for field, value in replaced.items() if value}
    values = experiment.model_dump() | changes
    given = {option: value for option, value in named.items() if value is not None}
    values["options"] = experiment.options | given | parse_settings(options)
    return check(ExperimentConfig, values, name)


def _print_list() -> None:
    from fisherscope.pipeline.reproduce.run import list_experiments

    for entry in list_experiments():
        print(f"{entry['name']:<26} {entry['minutes']:>5g} min  {entry['makes']}")


def _print_plan(name: str, experiment: ExperimentConfig, settings: RunSettings) -> None:
    from fisherscope.pipeline.reproduce.case import NothingLeftError
    from fisherscope.pipeline.reproduce.run import plan

    try:
        found = plan(experiment, settings)
    except NothingLeftError as cause:
        print(f"{name}: {cause}")
        return
    print(f"{name}: at most {found.minutes:g} minutes with the zoo's models on two cores")
    for case in found.cases:
        print(f"  {case.label} of {case.in_dist}: against {', '.join(case.out_dists) or 'nothing'}")
    _print_skipped(found.skipped)


def _print_skipped(skipped: Mapping[str, str]) -> None:
    for what, why in skipped.items():
        print(f"skipped: {what}, {why}")
