"""Scores as files that other programs read: CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fisherscope.core.errors import SettingError
from fisherscope.core.store import write_atomic
from fisherscope.pipeline.guard import Verdict

Rows = list[dict[str, Any]]


def known_note(n_known: int) -> str:
    """Return the sentence about groups of samples that the guard or its models have learnt from."""
    return (
        f"With samples that the guard was fitted or calibrated on or that its model was trained on: {n_known}, whose "
        "p-values promise nothing."
    )


def verdict_rows(verdict: Verdict) -> Rows:
    """Return one row a group: id (members joined by ``;``), score, p_value, novel."""
    return [
        {"id": ";".join(ids), "score": float(score), "p_value": float(p), "novel": bool(novel)}
        for ids, score, p, novel in zip(verdict.ids, verdict.score, verdict.p_value, verdict.novel, strict=True)
    ]


def _csv(rows: Rows) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()} for row in rows)
    return text.getvalue().encode()


def _json_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def _parquet(rows: Rows) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SettingError("writing Parquet needs pyarrow: pip install 'fisherscope[data]', or write .csv") from None
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())


_WRITERS: Final[Mapping[str, Callable[[Rows], bytes]]] = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}


def require_known_format(path: Path) -> None:
    """Raise :class:`SettingError` for a suffix that nothing writes; ask before the long work."""
    if path.suffix not in _WRITERS:
        raise SettingError(f"{path} ends in '{path.suffix}', expected {', '.join(_WRITERS)}")


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows of one set of columns in the format that the suffix of ``path`` names, atomically."""
    require_known_format(path)
    write_atomic(path, _WRITERS[path.suffix](rows))


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Write one row a group in the format that the suffix of ``path`` names, atomically."""
    write_rows(path, verdict_rows(verdict))
