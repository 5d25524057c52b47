"""From the results of all experiments to one page."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.core.store import read_json, write_atomic
from fisherscope.pipeline.reproduce.outcome import FORMAT_VERSION, RESULTS
from fisherscope.report.reproduction import PageEntry, html_page, markdown_page
from fisherscope.report.text_table import TextCell, TextTable

MOST_BYTES: Final = 8 * 2**20
MOST_FIGURES: Final = 10
"""Of one experiment on a page; its command writes all."""
MOST_NUMBERS: Final = 500
"""Of one list beside a page."""
_MOST_CHANGE: Final = 3.0
"""Mean change of a channel, of 256 levels, that fewer colours may make where a picture is not white."""


def result_folders(root: Path) -> list[Path]:
    """Return the folders below one that hold an experiment's results and are called by its name, sorted.

    Raises:
        DataError: there are none, or some are of another version.
    """
    paths = sorted(root.glob(f"*/{RESULTS}"))
    found = [path.parent for path in paths if _read(path)["experiment"] == path.parent.name]
    if not found:
        raise DataError(f"{root} holds no results of an experiment; run one first: fisherscope reproduce --list")
    return found


def write_page(results: Sequence[Path], folder: Path, command: str) -> list[Path]:
    """Write ``index.html``, ``index.md``, the pictures of experiments and their numbers, ``NAME.json``.

    Experiments that are on the page already and not among the results stay there: a page can be made in several goes.

    Args:
        results: folders of one experiment's results each; no experiment twice.
        folder: where the page goes.
        command: command line that wrote it.

    Returns:
        The two pages.

    Raises:
        DataError: some results are of another version, or the pictures take more than 8 MiB.
    """
    found = [(_read(place / RESULTS), place) for place in results]
    new = {value["experiment"]: value for value, _ in found}
    old = _on_page(folder)
    content = {
        _picture(value, stem): _compact((place / f"{stem}.png").read_bytes())
        for value, place in found
        for stem in _shown(value)
    }
    staying = {_picture(value, stem) for name, value in old.items() if name not in new for stem in _shown(value)}
    size = sum(map(len, content.values())) + sum((folder / name).stat().st_size for name in staying)
    if size > MOST_BYTES:
        count = len(content) + len(staying)
        raise DataError(f"the page's {count} pictures take {size:,} bytes, more than {MOST_BYTES:,}; draw fewer")
    entries = [_entry(value) for _, value in sorted((old | new).items())]
    pages = {folder / "index.html": html_page(entries, command), folder / "index.md": markdown_page(entries, command)}
    for name, data in content.items():
        write_atomic(folder / name, data)
    for name, value in new.items():
        write_atomic(folder / f"{name}.json", (json.dumps(_short(value), allow_nan=False) + "\n").encode())
    for path, text in pages.items():
        write_atomic(path, text.encode())
    for name in {_picture(value, stem) for value in old.values() for stem in _shown(value)} - {*content, *staying}:
        (folder / name).unlink(missing_ok=True)
    return list(pages)


def _short(value: Any) -> Any:
    """Return a JSON value in six digits, whose long lists of numbers, such as points of a figure, are only counted."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    rows = [item if isinstance(item, list) else [item] for item in value]
    count = sum(map(len, rows))
    if count > MOST_NUMBERS and all(isinstance(number, (int, float)) for row in rows for number in row):
        return f"{count:,} numbers"
    return [_short(item) for item in value]


def _on_page(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the experiments that lie beside a page, each under its name; other files are none of ours."""
    found = {path: read_json(path) for path in folder.glob("*.json")}
    ours = {path: v for path, v in found.items() if isinstance(v, dict) and v.get("experiment") == path.stem}
    return {path.stem: _checked(path, value) for path, value in ours.items()}


def _shown(value: Mapping[str, Any]) -> list[str]:
    """Return the figures of an experiment that go onto a page: evenly spaced ones where there are many."""
    fit = [stem for stem in value["figures"] if stem not in value["off_page"]]
    count = min(len(fit), MOST_FIGURES)
    return [fit[i * len(fit) // count] for i in range(count)]


def _picture(value: Mapping[str, Any], stem: str) -> str:
    return f"{value['experiment']}-{stem}.png"


def _compact(png: bytes) -> bytes:
    """Return a picture with at most 256 colours, if that is smaller and looks the same: drawings need no more."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB")
    few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    whole, reduced = (np.asarray(image, dtype=np.int16) for image in (picture, few.convert("RGB")))
    inked = (whole < 255).any(-1)
    if inked.any() and np.abs(whole - reduced)[inked].mean() > _MOST_CHANGE:
        return png
    few.save(buffer, "PNG", optimize=True)
    return min(png, buffer.getvalue(), key=len)


def _read(path: Path) -> dict[str, Any]:
    return _checked(path, read_json(path))


def _checked(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{path} was not written by this version; run fisherscope reproduce {path.parent.name} again")
    return value


def _entry(value: Mapping[str, Any]) -> PageEntry:
    name, captions, shown = value["experiment"], value["captions"], _shown(value)
    said = {stem: f"{stem}: {captions[stem]}" if stem in captions else stem for stem in (*shown, *value["tables"])}
    # A table of a figure's name shares its caption, which is not said twice.
    again = {stem: f"{stem}: the numbers of that figure." for stem in shown}
    return PageEntry(
        name=name,
        makes=value["makes"],
        command=value["command"],
        seconds=value["seconds_first_run"],
        paper=value["paper"],
        note=value["note"],
        comment=value["comment"],
        figures={_picture(value, stem): said[stem] for stem in shown},
        figures_in_all=len(value["figures"]),
        tables={stem: ((said | again)[stem], _table(table)) for stem, table in value["tables"].items()},
        details=tuple(value["details"]),
        models=list(value["models"]),
        samples=value["samples"],
        skipped=value["skipped"],
        seed=value["settings"]["seed"],
        versions=value["versions"],
    )


def _table(value: Mapping[str, Any]) -> TextTable:
    rows = [(name, [TextCell(**cell) for cell in cells]) for name, cells in value["rows"]]
    return TextTable(value["corner"], [tuple(head) for head in value["heads"]], rows, value["rules"])
