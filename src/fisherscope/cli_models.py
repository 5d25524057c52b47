"""Commands about models: train, zoo, info, samples. :mod:`fisherscope.cli` mounts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fisherscope.cli_common import command_line, parse_shape, progress_bar
from fisherscope.cli_options import DataRoot, Device, Limit, ModelArgument, Seed, writable_file, writable_folder

if TYPE_CHECKING:
    from fisherscope.config import TrainConfig
    from fisherscope.models.base import GenerativeModel
    from fisherscope.models.training import Progress

app = typer.Typer(rich_markup_mode=None)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="Folder for the model.", metavar="DIR", callback=writable_folder)],
    family: Annotated[
        str | None,
        typer.Argument(help="Model family: glow, pixelcnn, vae, diffusion, language, tabular. Not with --config."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Training samples.", metavar="DATA")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Experiment file; options override it.", metavar="FILE.toml")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall-clock budget of the training.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; instead of --minutes.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the set [default: train; of a text or table: all of it].")
    ] = None,
    limit: Limit = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many validations without a new best, and keep the best.")
    ] = None,
    autocast: Annotated[bool | None, typer.Option("--autocast", help="Compute in bfloat16 where it can be.")] = None,
    channels_last: Annotated[
        bool | None, typer.Option("--channels-last", help="Memory layout for images, faster with --autocast.")
    ] = None,
    levels: Annotated[
        int | None, typer.Option(help="Glow: number of scales [default: as many as fit, 3 at most].")
    ] = None,
    flow_steps: Annotated[int | None, typer.Option(help="Glow: steps of flow per scale.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Channels inside: of glow, pixelcnn, vae.")] = None,
    permutation: Annotated[str | None, typer.Option(help="Glow: 1x1 convolutions, plain or lu.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of the family; may be repeated.", metavar="NAME=JSON"),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Save the parameters in float16.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training in --out.")] = False,
    resize: Annotated[str | None, typer.Option(help="Convert images to CxHxW, e.g. 3x32x32.")] = None,
    perturb: Annotated[
        float | None, typer.Option(help="Replace this share of values by noise: a background model.", metavar="RATE")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Bytes of the windows of a text [default: 128].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all randomness [default: 0].")] = None,
    device: Device = "cpu",
    data_root: DataRoot = None,
) -> None:
    """Train a model and save it; under torchrun over several processes.

    Example: fisherscope train glow --data fashion_mnist --out runs/glow --minutes 15
    """
    training = {
        "steps": steps,
        "minutes": minutes,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "autocast": autocast,
        "channels_last": channels_last,
        "seed": seed,
    }
    model = {"levels": levels, "steps": flow_steps, "hidden": hidden, "permutation": permutation}
    given = {
        "family": family,
        "data": data,
        "split": split,
        "limit": limit,
        "resize": parse_shape(resize),
        "perturb": perturb,
        "window": window,
        "storage": "float16" if half else None,
    }
    merged = _merge_config(config, _given(given), _given(model) | parse_settings(settings or []), _given(training))
    _run_training(merged, out, resume=resume, device=device, data_root=data_root)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Return the settings of ``NAME=JSON`` texts; what is no JSON is taken as text."""
    from fisherscope.core.errors import SettingError

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingError(f"--set {pair}: expected NAME=JSON, such as hidden=64 or timesteps=[1,8]")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _merge_config(
    path: Path | None, given: dict[str, Any], model: dict[str, Any], training: dict[str, Any]
) -> TrainConfig:
    """Return the configuration of a file, if there is one, with the options that were given in its place."""
    from fisherscope.config import TrainConfig, TrainingTable, read_train_config
    from fisherscope.core.errors import SettingError

    if path is None:
        missing = [name for name in ("family", "data") if name not in given]
        if missing:
            raise SettingError(f"{' and '.join(missing)} missing; give FAMILY and --data, or --config")
        return TrainConfig(**given, model=model, training=TrainingTable(**training))
    if "family" in given:
        raise SettingError("FAMILY and --config were both given; the file names the family")
    base = read_train_config(path)
    table = base.training.model_dump(exclude_none=True)
    for budget, other in (("steps", "minutes"), ("minutes", "steps")):
        if budget in training:
            table.pop(other, None)
    changes = given | {"model": base.model | model, "training": TrainingTable(**(table | training))}
    return base.model_copy(update=changes)


def _run_training(config: TrainConfig, out: Path, *, resume: bool, device: str, data_root: Path | None) -> None:
    from contextlib import nullcontext

    from fisherscope.models.training.workers import is_first
    from fisherscope.pipeline.target import parse_device
    from fisherscope.pipeline.training import train_from_config

    steps, minutes = config.training.steps, config.training.minutes
    first = is_first()
    title = f"{config.family} on {config.data}"
    with progress_bar(title, "steps" if steps else "seconds") if first else nullcontext() as update:

        def report(p: Progress) -> None:
            note = f"{p.bits_per_dim:.3f} bits/dim" + (f", validation {p.validation:.3f}" if p.validation else "")
            if update is not None:
                update(p.step if steps else p.seconds, steps or 60 * (minutes or 0), note)

        model = train_from_config(
            config,
            out,
            data_root=data_root,
            device=parse_device(device),
            resume=resume,
            command=command_line(),
            report=report,
        )
    if first:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in model.card.bits_per_dim.items())
        print(f"{out}: {model.family} after {model.card.steps} steps, bits/dim: {figures}")


@app.command()
def zoo(as_json: _Json = False) -> None:
    """List the trained models that come with the package.

    Example: fisherscope zoo --json
    """
    from fisherscope.pipeline.models import zoo_info

    entries = zoo_info()
    if as_json:
        print(json.dumps(entries, indent=1))
        return
    for entry in entries:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in entry["card"]["bits_per_dim"].items())
        print(f"{entry['name']:<28} {entry['parameters']:>9,} parameters {entry['bytes'] / 2**20:6.2f} MiB  {figures}")
    if not entries:
        print("the zoo of this installation is empty; train a model with: fisherscope train")


@app.command()
def info(model: ModelArgument, as_json: _Json = False) -> None:
    """Tell what is known of a model: parameters, layers with shapes, bits/dim, card.

    Example: fisherscope info runs/glow
    """
    from fisherscope.pipeline.models import model_info

    facts = model_info(_load(model))
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name in ("family", "data_shape", "parameters", "train_samples", "fingerprint"):
        print(f"{name:<14} {facts[name]}")
    for name, value in (facts["config"] | facts["card"]).items():
        print(f"{name:<14} {value}")
    for name, shape in facts["layers"].items():
        print(f"  {name}  {'x'.join(map(str, shape)) or 'scalar'}")


@app.command()
def samples(
    model: ModelArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Grid as .png, texts as .txt, rows as .csv, or any as .npy.",
            callback=writable_file,
        ),
    ],
    count: Annotated[int, typer.Option("--count", "-n", help="How many samples.")] = 64,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw samples of a model.

    Example: fisherscope samples runs/glow --out grid.png
    """
    from fisherscope.pipeline.models import write_samples

    write_samples(_load(model, device), out, count=count, seed=seed)
    print(f"{out}: {count} samples of {model}")


def _load(name: str, device: str = "cpu") -> GenerativeModel:
    from fisherscope.core.errors import ModelError
    from fisherscope.models.base import GenerativeModel
    from fisherscope.pipeline.target import load_target

    module = load_target(name, device=device).module
    if not isinstance(module, GenerativeModel):
        raise ModelError(f"{name} makes a plain {type(module).__name__}; this command needs a GenerativeModel")
    return module
