"""What several commands do alike: read arguments, guards and sets, show progress."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fisherscope.core.errors import SettingError, some_of

if TYPE_CHECKING:
    from fisherscope.core.table import FeatureTable
    from fisherscope.data import Samples
    from fisherscope.pipeline.guard import Guard
    from fisherscope.pipeline.target import Target

console = Console(stderr=True, soft_wrap=True, highlight=False)


class Update(Protocol):
    """What moves a progress bar."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Show ``done`` of ``total`` and a note."""


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Update]:
    """Show a bar on stderr; yields ``update(done, total, note)``. Silent where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=None, note="")

        def update(done: float, total: float, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield update


def command_line() -> str:
    """Return the command that is running, as the user would type it."""
    return shlex.join(["fisherscope", *sys.argv[1:]])


def load_guard(
    folder: Path,
    model: str | None,
    detector_class: str | None,
    metric_class: str | None,
    companion: list[str] | None,
    device: str,
    max_memory: str | None,
) -> Guard:
    """Return a saved guard with the user's own classes, which a file cannot name."""
    from fisherscope.detectors import make_detector
    from fisherscope.features.metrics import make_metric
    from fisherscope.pipeline.companions import load_companions
    from fisherscope.pipeline.guard_files import load, saved_card
    from fisherscope.pipeline.target import load_target

    dtype = saved_card(folder).dtype
    own = load_target(model, device=device, dtype=dtype) if model else None
    return load(
        folder,
        own.module if own else None,
        own.log_prob if own else None,
        detector=make_detector(detector_class) if detector_class else None,
        device=device,
        max_memory=parse_bytes(max_memory),
        companions=load_companions(companion or (), device=device, dtype=dtype),
        metrics=[make_metric(metric_class)] if metric_class else (),
    )


def read_data(
    data: str,
    target: Target,
    split: str | None,
    data_root: Path | None,
    limit: int | None,
    resize: str | None,
    window: int | None,
    seed: int,
) -> Samples | FeatureTable:
    """Return a feature table, or the samples of anything else that ``--data`` takes."""
    from fisherscope.core.table import FeatureTable

    shape = parse_shape(resize)
    if data.endswith(".safetensors"):
        options = {"--split": split, "--limit": limit, "--resize": resize, "--window": window}
        if given := [name for name, value in options.items() if value is not None]:
            raise SettingError(
                f"{data} is a feature table, whose samples are chosen already: leave out {', '.join(given)}, or give "
                "the samples"
            )
        return FeatureTable.load(data)
    return sample_reader(target, data_root, shape, window, seed)(data, split=split, limit=limit)


def sample_reader(
    target: Target, data_root: Path | None, shape: tuple[int, int, int] | None, window: int | None, seed: int
) -> Callable[..., Samples]:
    """Return what reads sets for a target: ``read(data, split=None, limit=None)``."""
    from fisherscope.data import load_samples

    return partial(
        load_samples, data_root=data_root, seed=seed, resize=shape, window=window, default_window=target.window
    )


def print_left_out(names: Sequence[str], guard: Guard) -> None:
    """Say which samples were not judged, as they fill no last group: how many, and the first of them."""
    if names:
        print(f"{len(names)} not judged, as they fill no group of {guard.card.group_size}: {some_of(names)}")


def parse_bytes(text: str | None) -> int | None:
    """Return the number of bytes for ``500MB``, ``2GiB`` or a plain number."""
    if text is None:
        return None
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in units or float(match[1]) <= 0:
        raise SettingError(f"'{text}' is no amount of memory, expected a number with KB, MB, GB, KiB, MiB or GiB")
    return int(float(match[1]) * units[match[2]])


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    """Return (C, H, W) for ``CxHxW``."""
    if text is None:
        return None
    try:
        channels, height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise SettingError(f"'{text}' is no image shape, expected CxHxW such as 3x32x32") from None
    return channels, height, width
