"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def _at_least_one(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise typer.BadParameter(f"{limit} was given, expected at least 1 sample, or leave it out.")
    return limit


def writable_file(path: Path | None) -> Path | None:
    """Check, before the long work, that a file can be written at a path."""
    if path is not None:
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder, expected the name of a file to write.")
        if path.is_file() or not path.exists():  # into a pipe or a device anything goes
            _require_place(path, path.resolve().parent)
    return path


def writable_folder(path: Path | None) -> Path | None:
    """Check, before the long work, that a folder can be written at a path."""
    if path is not None:
        if path.exists() and not path.is_dir():
            raise typer.BadParameter(f"{path} is a file, expected a folder or a new name.")
        _require_place(path, path.absolute())
    return path


def _require_place(path: Path, folder: Path) -> None:
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written: {place} is no folder that you may write to.")


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Folder of a saved model, zoo:NAME, hub:owner/NAME, or package.module:factory."
    ),
]
GuardArgument = Annotated[Path, typer.Argument(metavar="GUARD", help="Folder that fit wrote.")]
SamplesOption = Annotated[
    str,
    typer.Option(
        "--data", metavar="DATA", help="Named set, folder of images, .parquet, .npy, .npz, text (.txt) or table (.csv)."
    ),
]
OwnModel = Annotated[str | None, typer.Option(metavar="MODEL", help="package.module:factory of your own module.")]
OwnDetector = Annotated[str | None, typer.Option(metavar="NAME", help="package.module:Class of your own detector.")]
OwnMetric = Annotated[
    str | None, typer.Option("--metric-class", metavar="NAME", help="package.module:Class of your own Fisher metric.")
]
AllowTraining = Annotated[
    bool, typer.Option("--allow-training-samples", help="Accept samples that the model was trained on.")
]
ModelSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A saved model's setting beside its parameters; may be repeated.", metavar="NAME=JSON"),
]
Dtype = Annotated[str, typer.Option(help="Floating dtype: float32 or float64.")]
Split = Annotated[str | None, typer.Option(help="Split of the set [default: test; a file: all of it].")]
Resize = Annotated[str | None, typer.Option(help="Convert images to CxHxW, e.g. 3x32x32.", metavar="CxHxW")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="FISHERSCOPE_DATA", help="Folder of named sets.", metavar="DIR")
]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1, ...")]
Limit = Annotated[
    int | None, typer.Option(callback=_at_least_one, help="Use at most so many samples, drawn at random.")
]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
LimitSeed = Annotated[int, typer.Option("--seed", help="Seed of the subset that --limit draws.")]
Window = Annotated[
    int | None, typer.Option(help="Bytes of the windows that a text is cut into [default: the model's].", metavar="T")
]
MaxMemory = Annotated[
    str | None, typer.Option("--max-memory", help="Memory for the gradient pass, e.g. 500MB or 2GiB.", metavar="SIZE")
]
Companions = Annotated[
    list[str] | None,
    typer.Option(
        "--companion",
        metavar="NAME=MODEL",
        help="Further model: 'background' for likelihood-ratio, any other name for waic; may be repeated.",
    ),
]
