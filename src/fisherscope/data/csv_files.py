"""CSV files of numbers: tables as a spreadsheet saves them."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.keys import LARGEST_EXACT
from fisherscope.data.parts import part_of
from fisherscope.data.samples import DEFAULTS, ReadOptions, Samples

_LABEL: Final = "label"


def read_csv(path: Path, name: str, options: ReadOptions = DEFAULTS, *, split: str | None = None) -> Samples:
    """Read the rows of a comma-separated file of numbers.

    A first row without any number is a header. A column called ``label`` holds labels, which are integers, as in
    Parquet files. Empty lines are skipped.

    Args:
        path: the file, UTF-8.
        name: name of the set.
        options: subset of the rows.
        split: ``train`` for the first 80 % of the rows, ``test`` for the rest, None for all.

    Returns:
        Rows (N, columns), float64, called ``file.csv:line`` with the line of the file, the first being 1.

    Raises:
        DataError: no rows, a column name that occurs twice, a row of another length than the first, a cell that is
            missing or no finite number, or a label that is no integer; line and column are named.
    """
    if options.resize is not None:
        raise DataError(f"{name} is a table; only images can be resized")
    table = _read(path)
    part = np.asarray(part_of(len(table.lines), split, name))
    rows = part[options.rows(len(part))]
    ids = [f"{path.name}:{table.lines[i]}" for i in rows]
    features = [i for i, column in enumerate(table.columns) if column != _LABEL]
    if not features:
        raise DataError(f"{path} holds the column '{_LABEL}' only, expected numeric features too")
    samples = Samples.from_array(table.values[rows][:, features], ids, name, _labels(path, table, rows))
    return replace(samples, columns=tuple(table.columns[i] for i in features)) if table.named else samples


@dataclass(frozen=True)
class _Table:
    columns: list[str]
    named: bool
    lines: list[int]
    values: NDArray[np.float64]


def _read(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error, OSError) as cause:
        raise DataError(f"{path} is not a readable CSV file ({cause}); save it as UTF-8 with commas") from None
    header = bool(rows) and all(_number(cell) is None for cell in rows[0][1])
    body = rows[1:] if header else rows
    if not body:
        raise DataError(f"{path} holds no row of numbers, expected at least one")
    columns = [c.strip() for c in rows[0][1]] if header else [str(i + 1) for i in range(len(rows[0][1]))]
    if "" in columns:
        raise DataError(
            f"{path}: column {columns.index('') + 1} has no name, as the row numbers that pandas writes; a number that "
            "rises from row to row is no feature: drop it (to_csv(index=False)), or give it a name"
        )
    if twice := [column for column, times in Counter(columns).items() if times > 1]:
        raise DataError(
            f"{path} has several columns called '{twice[0]}', expected different names; rename or drop them"
        )
    values = np.array([_numbers(path, line, row, columns) for line, row in body])
    return _Table(columns, header, [line for line, _ in body], values)


def _numbers(path: Path, line: int, row: Sequence[str], columns: Sequence[str]) -> list[float]:
    if len(row) != len(columns):
        raise DataError(f"{path}, line {line}: {len(row)} cells, expected {len(columns)} separated by commas")
    numbers = [_number(cell) for cell in row]
    for cell, number, column in zip(row, numbers, columns, strict=True):
        if wrong := _wrong_with(cell, number):
            raise DataError(f"{path}, line {line}, column {column}: {wrong}; repair or drop the row or the column")
    return [number for number in numbers if number is not None]


def _wrong_with(cell: str, number: float | None) -> str | None:
    if not cell.strip():
        return "the value is missing"
    if number is None or not math.isfinite(number):
        return f"'{cell}' is no finite number"
    if number and abs(number) >= LARGEST_EXACT and _is_whole(cell) and int(cell) != int(number):
        return f"float64 rounds {cell.strip()} to {int(number)}; subtract an offset, or split it into two columns"
    # float() takes the underscores of Python's literals; in a file they may as well be a slip.
    return f"'{cell}' holds an underscore, expected digits only" if "_" in cell else None


def _is_whole(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdecimal()


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _labels(path: Path, table: _Table, rows: NDArray[np.intp]) -> NDArray[np.int64] | None:
    if _LABEL not in table.columns:
        return None
    labels: NDArray[np.float64] = table.values[rows, table.columns.index(_LABEL)]
    wrong = np.flatnonzero((labels != np.floor(labels)) | (np.abs(labels) > LARGEST_EXACT))
    if len(wrong):
        raise DataError(
            f"{path}, line {table.lines[rows[wrong[0]]]}, column {_LABEL}: {labels[wrong[0]]:g} is no label, expected "
            "an integer (up to 2**53); rename the column if it is a feature, or drop it"
        )
    return labels.astype(np.int64)
