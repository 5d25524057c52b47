"""Commands that say why and rank: explain, rank. :mod:`fisherscope.cli` mounts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fisherscope.cli_common import (
    command_line,
    load_guard,
    parse_bytes,
    parse_shape,
    print_left_out,
    progress_bar,
    sample_reader,
)
from fisherscope.cli_options import (
    AllowTraining,
    Companions,
    DataRoot,
    Device,
    GuardArgument,
    Limit,
    LimitSeed,
    MaxMemory,
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

if TYPE_CHECKING:
    from fisherscope.data import Samples
    from fisherscope.pipeline.guard import Guard
    from fisherscope.pipeline.saliency import ExplainSettings
    from fisherscope.pipeline.target import Target

app = typer.Typer(rich_markup_mode=None)

_Smooth = Annotated[int, typer.Option(help="Average the maps over so many perturbed copies; 0: none.")]
_Noise = Annotated[
    float | None, typer.Option(help="Their standard deviation in the units of x [default: 2 % of the range].")
]
_Signed = Annotated[
    bool, typer.Option("--signed", help="Signed gradients: what raises the score against what lowers it.")
]
_Method = Annotated[
    str | None,
    typer.Option("--map", metavar="KIND", help="Of images: contrast (the default), positions, gradient or leverage."),
]
_Blur = Annotated[
    float | None,
    typer.Option(
        help="Gaussian filter over maps of images, in pixels "
        "[default: 1/16 of the side; positions, leverage 1/8; gradient 0]."
    ),
]
_Reference = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="In-distribution samples that the layers, and a map of leverage, compare with."),
]


@app.command()
def explain(
    guard: GuardArgument,
    data: SamplesOption,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder for page, heat maps and tables.", callback=writable_folder),
    ],
    reference: _Reference = None,
    smooth: _Smooth = 0,
    noise: _Noise = None,
    signed: _Signed = False,
    map_kind: _Method = None,
    blur: _Blur = None,
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
    """Say why samples are novel: which pixels, tokens or columns, and which layers of the model.

    Writes index.html, heatmaps/*.png, explanations.json, layers.csv and maps.safetensors.

    Example: fisherscope explain runs/guard --data holiday_pictures --limit 20 --out runs/why
    """
    from fisherscope.pipeline.batches import as_batches
    from fisherscope.pipeline.explained import write_explanation
    from fisherscope.pipeline.explanation import explain_groups

    settings = _settings(smooth, noise, signed, map_kind, blur)
    loaded = load_guard(guard, model, detector_class, metric_class, companion, device, max_memory)
    shape = parse_shape(resize)
    read = _reader(loaded.target, data_root, shape, window, seed)
    samples = as_batches(read(data, split=split, limit=limit), loaded.target)
    known = None if reference is None else read(reference)
    with progress_bar(f"explaining {data}", "samples") as update:
        found = explain_groups(loaded, samples, settings, reference=known, report=update)
    page = write_explanation(found, samples, out, command_line())
    print(f"{page}: {int(found.novel.sum())} of {len(found.score)} novel, maps of {found.kind}")
    print_left_out(found.left_out, loaded)


@app.command()
def rank(
    guard_or_model: Annotated[
        str, typer.Argument(metavar="GUARD_OR_MODEL", help="Folder that fit wrote; or a model, with --in-dist.")
    ],
    data: SamplesOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="Ranking as .html, .csv, .jsonl or .parquet.", callback=writable_file
        ),
    ],
    top: Annotated[int, typer.Option(help="Length of the list.")] = 100,
    fdr: Annotated[float, typer.Option(help="False discovery rate: share of discoveries that are not novel.")] = 0.1,
    in_dist: Annotated[
        str | None,
        typer.Option("--in-dist", metavar="DATA", help="Good samples to fit on, for a model that has no guard yet."),
    ] = None,
    detector: Annotated[str | None, typer.Option(help="Detector to fit with --in-dist.", metavar="NAME")] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size", help="How many samples are judged together, with --in-dist [default: 1].", metavar="B"
        ),
    ] = None,
    allow_training_samples: AllowTraining = False,
    model_settings: ModelSettings = None,
    dtype: Annotated[
        str | None, typer.Option(help="Floating dtype, with --in-dist: float32 (the default) or float64.")
    ] = None,
    reference: _Reference = None,
    smooth: _Smooth = 0,
    noise: _Noise = None,
    signed: _Signed = False,
    map_kind: _Method = None,
    blur: _Blur = None,
    model: OwnModel = None,
    detector_class: OwnDetector = None,
    metric_class: OwnMetric = None,
    companion: Companions = None,
    split: Split = None,
    limit: Limit = None,
    resize: Resize = None,
    window: Window = None,
    seed: Seed = 0,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    data_root: DataRoot = None,
) -> None:
    """Rank a set: its most novel samples with p-values, false discovery rate, heat maps and layers.

    Example: fisherscope rank runs/guard --data incoming --top 100 --fdr 0.1 --out runs/incoming.html
    """
    from fisherscope.cli_models import parse_settings
    from fisherscope.detectors import DEFAULT_DETECTOR
    from fisherscope.pipeline.companions import load_companions
    from fisherscope.pipeline.explained import ranking_notes, require_ranking_format, write_ranking
    from fisherscope.pipeline.ranking import rank_groups, require_ranking_settings
    from fisherscope.pipeline.target import load_target

    require_ranking_format(out)
    require_ranking_settings(top, fdr)
    settings = _settings(smooth, noise, signed, map_kind, blur)
    shape = parse_shape(resize)
    if (Path(guard_or_model) / "guard.safetensors").is_file():
        _refuse_fit_options(
            {
                "--in-dist": in_dist,
                "--detector": detector,
                "--group-size": group_size,
                "--allow-training-samples": allow_training_samples or None,
                "--set": model_settings,
                "--dtype": dtype,
            }
        )
        loaded = load_guard(Path(guard_or_model), model, detector_class, metric_class, companion, device, max_memory)
        read = _reader(loaded.target, data_root, shape, window, seed)
    else:
        good = _required(in_dist, guard_or_model)
        _refuse_guard_options(model, detector_class, metric_class)
        kind = dtype or "float32"
        target = load_target(guard_or_model, device=device, dtype=kind, settings=parse_settings(model_settings or []))
        read = _reader(target, data_root, shape, window, seed)
        fit_settings = {
            "detector": detector or DEFAULT_DETECTOR,
            "group_size": group_size,
            "seed": seed,
            "max_memory": parse_bytes(max_memory),
            "allow_training_samples": allow_training_samples,
            "companions": load_companions(companion or (), device=device, dtype=kind),
        }
        loaded = _fitted(target, read(good), fit_settings)
    samples = read(data, split=split, limit=limit)
    known = None if reference is None else read(reference)
    with progress_bar(f"ranking {data}", "") as update:
        found = rank_groups(
            loaded,
            samples,
            top=top,
            fdr=fdr,
            settings=settings,
            reference=known,
            report=lambda done, total: update(done, total, "samples"),
            report_explanation=lambda done, total: update(done, total, "samples explained"),
        )
    write_ranking(found, out, command_line())
    print(f"{out}: {found.n_discoveries} of {found.n_groups} discoveries at a false discovery rate of {fdr:g}")
    for note in ranking_notes(found):
        print(note)
    print_left_out(found.left_out, loaded)


def _settings(
    smooth: int, noise: float | None, signed: bool, map_kind: str | None, blur: float | None
) -> ExplainSettings:
    from fisherscope.pipeline.saliency import ExplainSettings, Method

    return ExplainSettings(smooth, noise, "sum" if signed else "abs", cast("Method | None", map_kind), blur)


def _reader(
    target: Target, data_root: Path | None, shape: tuple[int, int, int] | None, window: int | None, seed: int
) -> Callable[..., Samples]:
    """Return what reads sets for a target, and refuses tables: ``read(data, split=None, limit=None)``."""
    from fisherscope.core.errors import DataError

    samples = sample_reader(target, data_root, shape, window, seed)

    def read(data: str, split: str | None = None, limit: int | None = None) -> Samples:
        if data.endswith(".safetensors"):
            raise DataError(f"{data} is a feature table and holds no samples to explain; give the samples themselves")
        return samples(data, split=split, limit=limit)

    return read


def _fitted(target: Target, good: Samples, settings: Mapping[str, Any]) -> Guard:
    from fisherscope.pipeline.fitting import fit

    with progress_bar(f"fitting on {good.name}", "samples") as update:
        # A ranking holds a false discovery rate by p-values alone: however few samples calibrate, they will do.
        guard = fit(target, good, fpr=0.5, report=update, **settings)
    return guard.at(1 / (len(guard.calibration.scores) + 1))


def _required(in_dist: str | None, model: str) -> str:
    from fisherscope.core.errors import SettingError

    if in_dist is None:
        raise SettingError(
            f"{model} is no folder that fit wrote; give one, or a model and good samples as --in-dist DATA to fit it on"
        )
    return in_dist


def _refuse_guard_options(model: str | None, detector_class: str | None, metric_class: str | None) -> None:
    from fisherscope.core.errors import SettingError

    if model is not None:
        raise SettingError(
            f"two models were given; --model {model} names the module that a saved guard was fitted for: leave it out, "
            "or give that guard"
        )
    if detector_class is not None:
        raise SettingError(f"a model has no guard yet: name your own detector as --detector {detector_class}")
    if metric_class is not None:
        raise SettingError(
            f"a model has no guard yet: name your own metric with the detector that reads it, such as --detector "
            f"total-norm@{metric_class}"
        )


def _refuse_fit_options(options: Mapping[str, object]) -> None:
    from fisherscope.core.errors import SettingError

    if given := [name for name, value in options.items() if value is not None]:
        raise SettingError(f"the guard is already fitted: leave out {', '.join(given)}, or give a model")
