"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _at_least_one(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise typer.BadParameter(f"{limit} was given, expected at least 1 sample, or leave it out.")
    return limit


DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="FISHERSCOPE_DATA", help="Folder of named sets.", metavar="DIR")
]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1, ...")]
Limit = Annotated[
    int | None, typer.Option(callback=_at_least_one, help="Use at most so many samples, drawn at random.")
]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
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
