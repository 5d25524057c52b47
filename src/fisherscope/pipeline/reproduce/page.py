"""From the results of all experiments to one page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.core.store import read_json, write_atomic
from fisherscope.pipeline.reproduce.outcome import FORMAT_VERSION, RESULTS
from fisherscope.report.reproduction import PageEntry, html_page, markdown_page
from fisherscope.report.text_table import TextCell, TextTable

MOST_BYTES: Final = 8 * 2**20


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
    """Write ``index.html``, ``index.md`` and the pictures of experiments.

    Args:
        results: folders of one experiment's results each, in the order of the page; no experiment twice.
        folder: where the page goes.
        command: command line that made all of it.

    Returns:
        The two pages.

    Raises:
        DataError: some results are of another version, or the pictures take more than 8 MiB.
    """
    found = {place: _read(place / RESULTS) for place in results}
    pictures = {
        f"{value['experiment']}-{stem}.png": place / f"{stem}.png"
        for place, value in found.items()
        for stem in value["figures"]
    }
    content = {name: _compact(path.read_bytes()) for name, path in pictures.items()}
    size = sum(map(len, content.values()))
    if size > MOST_BYTES:
        raise DataError(f"the page's {len(content)} pictures take {size:,} bytes, more than {MOST_BYTES:,}; draw fewer")
    entries = [_entry(value) for value in found.values()]
    pages = {folder / "index.html": html_page(entries, command), folder / "index.md": markdown_page(entries, command)}
    for name, data in content.items():
        write_atomic(folder / name, data)
    for path, text in pages.items():
        write_atomic(path, text.encode())
    return list(pages)


def _compact(png: bytes) -> bytes:
    """Return a picture with at most 256 colours, if that is smaller: drawings need no more."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return min(png, buffer.getvalue(), key=len)


def _read(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{path} was not written by this version; run fisherscope reproduce {path.parent.name} again")
    return value


def _entry(value: Mapping[str, Any]) -> PageEntry:
    name, captions = value["experiment"], value["captions"]
    return PageEntry(
        name=name,
        makes=value["makes"],
        command=value["command"],
        seconds=value["seconds_first_run"],
        paper=value["paper"],
        note=value["note"],
        comment=value["comment"],
        figures={f"{name}-{stem}.png": captions.get(stem, stem) for stem in value["figures"]},
        tables={stem: (captions.get(stem, stem), _table(table)) for stem, table in value["tables"].items()},
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
