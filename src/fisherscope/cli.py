"""The command line: parse, print, progress. Everything else happens in the pipeline."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fisherscope import __version__
from fisherscope.cli_common import (
    command_line,
    console,
    load_guard,
    parse_bytes,
    parse_shape,
    print_left_out,
    progress_bar,
    read_data,
    sample_reader,
)
from fisherscope.cli_explain import app as explain_app
from fisherscope.cli_models import app as models_app
from fisherscope.cli_models import parse_settings
from fisherscope.cli_options import (
    AllowTraining,
    Companions,
    DataRoot,
    Device,
    Dtype,
    GuardArgument,
    Limit,
    LimitSeed,
    MaxMemory,
    ModelArgument,
    ModelSettings,
    OwnDetector,
    OwnMetric,
    OwnModel,
    Resize,
    SamplesOption,
    Seed,
    Split,
    Window,
    writable_file,
    writable_folder,
)
from fisherscope.cli_reproduce import app as reproduce_app
from fisherscope.core.errors import FisherscopeError

if TYPE_CHECKING:
    from fisherscope.pipeline.batches import Batches
    from fisherscope.pipeline.guard import Guard

app = typer.Typer(
    name="fisherscope",
    help="Which inputs has a deep generative model never learnt? Novelty from gradients in parameter space.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fisherscope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Which inputs has a deep generative model never learnt? Novelty from gradients in parameter space."""


@app.command()
def demo(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder for the model and the report.", callback=writable_folder),
    ] = Path("fisherscope-demo"),
    minutes: Annotated[float, typer.Option(help="Training time.")] = 0.7,
    seed: Seed = 0,
) -> None:
    """Train a small Glow on bundled images and report what its likelihood and its gradients say of others.

    Example: fisherscope demo --out runs/demo
    """
    from fisherscope.pipeline.demo import run_demo
    from fisherscope.report import metric_grid, print_grid

    with progress_bar("demo", "") as update:
        made = run_demo(
            out,
            minutes=minutes,
            seed=seed,
            command=command_line(),
            report_training=lambda p: update(p.seconds, 60 * minutes, f"seconds, {p.bits_per_dim:.3f} bits/dim"),
            report_extraction=lambda what, done, total: update(done, total, f"samples of {what}"),
        )
    print_grid(metric_grid(made.evaluation.records))
    print(made.evaluation.protocol.statement())
    print(f"model: {made.model}\nreport: {made.page}")


app.add_typer(models_app)


Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Named set, folder of images, .parquet, .npy, .npz, text (.txt), table (.csv), or feature table.",
    ),
]
GroupSize = Annotated[int, typer.Option("--group-size", help="How many samples are judged together.", metavar="B")]


@app.command()
def extract(
    model: ModelArgument,
    data: SamplesOption,
    out: Annotated[
        Path, typer.Option("--out", metavar="TABLE.safetensors", help="Feature table to write.", callback=writable_file)
    ],
    group_size: GroupSize = 1,
    blocks: Annotated[
        str, typer.Option(help="Blocks to fill.")
    ] = "term_norm,term_log_p,grad_norm,log_p,code_length,predictive_length,pixels",
    split: Split = None,
    limit: Limit = None,
    resize: Resize = None,
    companion: Companions = None,
    window: Window = None,
    model_settings: ModelSettings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    max_memory: MaxMemory = None,
    data_root: DataRoot = None,
) -> None:
    """Extract gradient features into a table; an interrupted run resumes. Under torchrun over several processes.

    Example: fisherscope extract runs/glow --data fashion_mnist --group-size 5 --out runs/test.safetensors
    """
    from fisherscope.core.errors import SettingError
    from fisherscope.data import load_samples
    from fisherscope.models.training.workers import workers
    from fisherscope.pipeline.batches import as_batches
    from fisherscope.pipeline.companions import as_companions, load_companions
    from fisherscope.pipeline.extraction import ExtractSettings, extract_table
    from fisherscope.pipeline.target import load_target, parse_device

    if out.suffix != ".safetensors":
        raise SettingError(f"{out} ends in '{out.suffix}', expected .safetensors")
    read = partial(load_samples, data, split=split, data_root=data_root, limit=limit, seed=seed)
    with workers(parse_device(device)) as team:
        target = load_target(model, device=str(team.device), dtype=dtype, settings=parse_settings(model_settings or []))
        samples = read(resize=parse_shape(resize), window=window, default_window=target.window)
        companions = as_companions(load_companions(companion or (), device=str(team.device), dtype=dtype), target)
        settings = ExtractSettings(group_size, seed, max_memory=parse_bytes(max_memory), companions=companions)
        data_batches, wanted = as_batches(samples, target), [block.strip() for block in blocks.split(",")]
        with progress_bar(samples.name, "samples") if team.main else nullcontext() as update:
            table = extract_table(target, data_batches, wanted, settings, out=out, report=update, team=team)
    if team.main:
        print(f"{out}: {len(table)} groups of {group_size}, blocks {', '.join(sorted(table.blocks))}")


@app.command()
def fit(
    model: ModelArgument,
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="GUARD", help="Folder for the fitted detector.", callback=writable_folder),
    ],
    detector: Annotated[
        str | None, typer.Option(help="Detector name, package.module:Class, or combined:A+B.", metavar="NAME")
    ] = None,
    fpr: Annotated[float, typer.Option(help="Wanted false-alarm rate.")] = 0.01,
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size", help="How many samples are judged together [default: 1, or a feature table's].", metavar="B"
        ),
    ] = None,
    split: Split = None,
    limit: Limit = None,
    resize: Resize = None,
    window: Window = None,
    allow_training_samples: AllowTraining = False,
    companion: Companions = None,
    model_settings: ModelSettings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    max_memory: MaxMemory = None,
    data_root: DataRoot = None,
) -> None:
    """Fit and calibrate a detector on in-distribution samples that the model was not trained on.

    Example: fisherscope fit runs/glow --data fashion_mnist --fpr 0.01 --out runs/guard
    """
    from fisherscope.detectors import DEFAULT_DETECTOR
    from fisherscope.pipeline.companions import load_companions
    from fisherscope.pipeline.fitting import fit as fit_guard
    from fisherscope.pipeline.target import load_target

    target = load_target(model, device=device, dtype=dtype, settings=parse_settings(model_settings or []))
    samples = read_data(data, target, split, data_root, limit, resize, window, seed)
    with progress_bar(f"fitting on {data}", "samples") as update:
        guard = fit_guard(
            target,
            samples,
            detector=detector or DEFAULT_DETECTOR,
            fpr=fpr,
            group_size=group_size,
            seed=seed,
            max_memory=parse_bytes(max_memory),
            allow_training_samples=allow_training_samples,
            companions=load_companions(companion or (), device=device, dtype=dtype),
            report=update,
        )
    guard.save(out)
    _print_guard(out, guard)


@app.command()
def update(
    detector: GuardArgument,
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="GUARD", help="Folder for the updated detector.", callback=writable_folder),
    ],
    model: OwnModel = None,
    detector_class: OwnDetector = None,
    metric_class: OwnMetric = None,
    allow_training_samples: AllowTraining = False,
    companion: Companions = None,
    split: Split = None,
    limit: Limit = None,
    resize: Resize = None,
    window: Window = None,
    seed: LimitSeed = 0,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    data_root: DataRoot = None,
) -> None:
    """Take further good samples into a fitted detector and calibrate it again; dampings and projections stay.

    Example: fisherscope update runs/guard --data good_of_this_week --out runs/guard-2
    """
    guard = load_guard(detector, model, detector_class, metric_class, companion, device, max_memory)
    samples = read_data(data, guard.target, split, data_root, limit, resize, window, seed)
    with progress_bar(f"updating with {data}", "samples") as progress:
        updated = guard.update(samples, allow_training_samples=allow_training_samples, report=progress)
    updated.save(out)
    _print_guard(out, updated)


@app.command()
def score(
    detector: GuardArgument,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Scores as .csv, .jsonl or .parquet.", callback=writable_file)
    ],
    fpr: Annotated[float | None, typer.Option(help="False-alarm rate [default: the one given to fit].")] = None,
    model: OwnModel = None,
    detector_class: OwnDetector = None,
    metric_class: OwnMetric = None,
    companion: Companions = None,
    split: Split = None,
    limit: Limit = None,
    resize: Resize = None,
    window: Window = None,
    seed: LimitSeed = 0,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    data_root: DataRoot = None,
) -> None:
    """Score samples: one row a sample or group with id, score, p_value, novel.

    Example: fisherscope score runs/guard --data holiday_pictures --out scores.csv
    """
    from fisherscope.pipeline.output import known_note, require_known_format, write_verdict

    require_known_format(out)
    guard = load_guard(detector, model, detector_class, metric_class, companion, device, max_memory).at(fpr)
    samples = read_data(data, guard.target, split, data_root, limit, resize, window, seed)
    with progress_bar(f"scoring {data}", "samples") as update:
        verdict = guard.judge(samples, update)
    write_verdict(out, verdict)
    print(f"{out}: {int(verdict.novel.sum())} of {len(verdict.score)} novel at a false-alarm rate of {guard.fpr:g}")
    if verdict.known.any():
        print(known_note(int(verdict.known.sum())))
    print_left_out(verdict.left_out, guard)


@app.command()
def evaluate(
    model: ModelArgument,
    in_dist: Annotated[str, typer.Option("--in-dist", metavar="DATA", help="In-distribution, not trained on.")],
    out_dist: Annotated[list[str], typer.Option("--out-dist", metavar="DATA", help="OOD set; may be repeated.")],
    detector: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Detector; may be repeated [default: the standard set].")
    ] = None,
    group_size: Annotated[
        list[int] | None, typer.Option(metavar="B", help="Group size; may be repeated [default: 1].")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the records here.", callback=writable_file)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write an HTML report with figures here.", callback=writable_folder),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep feature tables here, to resume and to reuse.", callback=writable_folder),
    ] = None,
    limit: Limit = None,
    resize: Resize = None,
    window: Window = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print by how much every other detector's AUROC differs from this one's."),
    ] = None,
    fpr: Annotated[float, typer.Option(help="False-alarm rate at which false alarms are counted.")] = 0.05,
    replicates: Annotated[int, typer.Option(metavar="R", help="Resamples of the bootstrap.")] = 1000,
    allow_training_samples: AllowTraining = False,
    companion: Companions = None,
    model_settings: ModelSettings = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    max_memory: MaxMemory = None,
    data_root: DataRoot = None,
) -> None:
    """Evaluate detectors: AUROC, AUPR and FPR95 with intervals against OOD sets.

    Example: fisherscope evaluate runs/glow --in-dist fashion_mnist --out-dist mnist --report runs/report
    """
    from fisherscope.core.errors import SettingError
    from fisherscope.evaluation import write_records
    from fisherscope.pipeline.batches import as_batches
    from fisherscope.pipeline.companions import as_companions, load_companions
    from fisherscope.pipeline.evaluation import STANDARD_DETECTORS, EvaluationSettings
    from fisherscope.pipeline.evaluation import evaluate as run_evaluation
    from fisherscope.pipeline.report import write_evaluation_report
    from fisherscope.pipeline.target import load_target
    from fisherscope.report import difference_grid, metric_grid, print_grid

    settings = EvaluationSettings(
        detectors=tuple(detector or STANDARD_DETECTORS),
        group_sizes=tuple(group_size or (1,)),
        seed=seed,
        fpr_level=fpr,
        replicates=replicates,
        max_memory=parse_bytes(max_memory),
        tables=tables,
        allow_training_samples=allow_training_samples,
    )
    if against is not None and (against not in settings.detectors or len(settings.detectors) < 2):
        raise SettingError(
            f"--against names '{against}', evaluated are {', '.join(settings.detectors)}; name it with --detector, "
            "beside those to compare with it"
        )
    target = load_target(model, device=device, dtype=dtype, settings=parse_settings(model_settings or []))
    companions = as_companions(load_companions(companion or (), device=device, dtype=dtype), target)
    settings = replace(settings, companions=companions)
    read = sample_reader(target, data_root, parse_shape(resize), window, seed)
    sets = _told_apart([as_batches(read(data, limit=limit), target) for data in (in_dist, *out_dist)])
    with progress_bar("extracting", "samples") as update:
        evaluation = run_evaluation(
            target, sets[0], sets[1:], settings, report=lambda what, done, total: update(done, total, what)
        )
    print_grid(metric_grid(evaluation.records))
    if against is not None:
        pairs = [pair for group in evaluation.groups.values() for pair in group.pairs.values()]
        print_grid(difference_grid(pairs, against, evaluation.protocol))
    print(evaluation.protocol.statement())
    if json_file is not None:
        write_records(json_file, evaluation.records)
    if report is not None:
        print(f"report: {write_evaluation_report(evaluation, target, sets, report, command_line())}")


app.add_typer(explain_app)
app.add_typer(reproduce_app)


def _told_apart(sets: Sequence[Batches]) -> list[Batches]:
    """Return sets of which figures do not call two alike: ``good/test`` and ``bad/test`` have the folder's name too."""
    from fisherscope.report.theme import display_name

    called = Counter(display_name(data.name) for data in sets)
    paths = [(data, PurePath(data.name)) for data in sets]
    return [
        replace(data, name=f"{path.parent.name}: {path.name}")
        if called[display_name(data.name)] > 1 and path.parent.name
        else data
        for data, path in paths
    ]


def _print_guard(out: Path, guard: Guard) -> None:
    size, bound = guard.card.group_size, guard.false_alarm_bound
    source = "" if guard.clusters is None else f" from {len(guard.clusters)} clusters"
    if bound is None:
        promise = f"{guard.fpr:.2%} false alarms wanted, not promised on groups from new clusters,"
    else:
        promise = f"at most {bound:.2%} false alarms{' in the mean over new clusters' if source else ''}"
    print(
        f"{out}: {guard.detector.name}, calibrated on {len(guard.calibration.scores)} groups of {size}{source}, "
        f"{promise} above score {guard.calibration.threshold(guard.fpr):.6g}"
    )


_INTERRUPTED: Final = 130


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        # typer turns Ctrl-C into the status 130, which it returns
        interrupted = app(sys.argv[1:] or ["--help"], standalone_mode=False) == _INTERRUPTED
    except typer.TyperException as error:
        console.print(f"fisherscope: {error.format_message()} See 'fisherscope --help'.", markup=False)
        sys.exit(2)
    except FisherscopeError as error:
        console.print(f"fisherscope: {error}", markup=False)
        sys.exit(2)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        console.print(f"fisherscope: {said}; look at the path, its permissions and the space left", markup=False)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        interrupted = True
    if interrupted:
        console.print(
            "fisherscope: interrupted; feature tables and checkpoints written so far are kept, and the same command "
            "goes on from them (train: with --resume)",
            markup=False,
        )
        sys.exit(_INTERRUPTED)
