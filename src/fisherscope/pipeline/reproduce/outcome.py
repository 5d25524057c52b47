"""What an experiment makes, and its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from fisherscope.core.store import atomic_folder
from fisherscope.report.figures import figure_bytes
from fisherscope.report.text_table import TextTable

RESULTS: Final = "results.json"
FORMAT_VERSION: Final = 2


@dataclass(frozen=True)
class Outcome:
    """What a runner returns.

    Attributes:
        results: every number that a figure or table shows, as JSON values.
        note: a plain paragraph: what was found, what agrees with the paper and what does not.
        figures: by file name without suffix.
        tables: likewise.
        captions: of figures and tables, by the same names.
        details: names of tables that only a reader who asks for them is shown.
        off_page: names of figures that a page of all experiments leaves out: images of sets that may not be passed on,
            and the further pages of long figures.
    """

    results: Mapping[str, Any]
    note: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, TextTable] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    off_page: tuple[str, ...] = ()


def save_outcome(outcome: Outcome, folder: Path, about: Mapping[str, Any]) -> list[Path]:
    """Write every figure (PNG, PDF) and table (Markdown, LaTeX) and last ``results.json``.

    Those of an earlier run give way when everything is written; other files in the folder are left alone.

    Args:
        outcome: what was made.
        folder: where it goes.
        about: how it was made, as JSON values; goes into ``results.json`` before the results.

    Returns:
        The files, ``results.json`` last.
    """
    made: dict[str, Any] = {
        "figures": list(outcome.figures),
        "tables": {name: asdict(table) for name, table in outcome.tables.items()},
        "captions": dict(outcome.captions),
        "details": list(outcome.details),
        "off_page": list(outcome.off_page),
    }
    value = {"format_version": FORMAT_VERSION, **about, **made, "note": outcome.note, "results": outcome.results}
    content = {**dict(_rendered(outcome)), RESULTS: (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()}
    with atomic_folder(folder, RESULTS) as new:
        for name, data in content.items():
            (new / name).write_bytes(data)
    return [folder / name for name in content]


def _rendered(outcome: Outcome) -> Iterable[tuple[str, bytes]]:
    for stem, figure in outcome.figures.items():
        yield f"{stem}.png", figure_bytes(figure, "png")
        yield f"{stem}.pdf", figure_bytes(figure, "pdf")
    for stem, table in outcome.tables.items():
        yield f"{stem}.md", table.markdown().encode()
        yield f"{stem}.tex", table.latex().encode()
