"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="FISHERSCOPE_DATA", help="Folder of named sets.", metavar="DIR")
]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1, ...")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
MaxMemory = Annotated[
    str | None, typer.Option("--max-memory", help="Memory for the gradient pass, e.g. 500MB or 2GiB.", metavar="SIZE")
]
