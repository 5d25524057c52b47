"""Parquet files and Arrow tables: a column of encoded images, or numeric columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError
from fisherscope.core.keys import LARGEST_EXACT
from fisherscope.data.images import decode_images
from fisherscope.data.samples import DEFAULTS, ReadOptions, Samples, track_names

Table = Any
"""A ``pyarrow.Table``; pyarrow belongs to an extra."""

_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls the row numbers of a frame, which are no feature."""


def read_parquet(paths: Sequence[Path], name: str, options: ReadOptions = DEFAULTS) -> Samples:
    """Read the shards of one Parquet set in order; see :func:`samples_from_table` for columns and arguments.

    Raises:
        DataError: pyarrow is not installed, a file is missing, truncated or of another schema than the first.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError("reading Parquet needs pyarrow; pip install 'fisherscope[data]'") from None
    tables = []
    for path in paths:
        try:
            # partitioning would turn a folder called "a=b" into a column
            tables.append(pq.read_table(path, partitioning=None))
        except (pa.ArrowException, OSError) as cause:
            line = str(cause).splitlines()[0]
            raise DataError(f"{path} is not a readable Parquet file ({line}); write or download it again") from None
        if tables[-1].column_names != tables[0].column_names:
            raise DataError(
                f"{path} has columns {tables[-1].column_names} but {paths[0]} has {tables[0].column_names}; "
                "the shards of a set must agree"
            )
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as cause:
        raise DataError(f"the shards of {name} differ in their column types ({cause}); write them again") from None
    return samples_from_table(table, name, options)


def samples_from_table(table: Table, name: str, options: ReadOptions = DEFAULTS) -> Samples:
    """Return the samples of an Arrow table.

    Args:
        table: a column of encoded images (binary, or struct with ``bytes`` and ``path``; ``image`` where there are
            several), else numeric columns, which become float64 rows (N, columns). A column ``label`` holds labels,
            which are integers (negative: none); beside images one of another kind, or with gaps, is left out.
        name: name of the set.
        options: subset and conversion.

    Returns:
        Samples called ``path#row`` (``name#row`` where a row has no path). Where every path is called
        ``TRACK-frameNNN`` the tracks are the clusters.

    Raises:
        DataError: no usable column, a row without a value, an integer that float64 does not hold, a label beside
            numeric columns that is no integer, or an image that cannot be used.
    """
    rows = options.rows(table.num_rows)
    labels = _labels(table, rows)
    column = _image_column(table, name)
    if column is None:
        ids = [f"{name}#{i}" for i in rows]
        values, columns = _numeric_rows(table, rows, name, options)
        return replace(Samples.from_array(values, ids, name, labels), columns=columns)
    files = _encoded(table.column(column), rows, name)
    ids = [label for label, _ in files]
    x = decode_images(((f"{name}: {i}", source) for i, source in files), len(files), options.resize)
    return Samples.from_array(x, ids, name, labels, track_names([i.rpartition("#")[0] for i in ids]))


def _image_column(table: Table, name: str) -> str | None:
    import pyarrow.types as types

    def encoded(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    found = [field.name for field in table.schema if encoded(field.type)]
    if len(found) > 1 and "image" not in found:
        raise DataError(f"{name} has the image columns {found}, expected one, or one called 'image'; drop the others")
    return "image" if "image" in found else next(iter(found), None)


def _encoded(column: Any, rows: NDArray[np.intp], name: str) -> list[tuple[str, bytes]]:
    files = []
    for row in rows:
        # one row at a time: Arrow cannot gather more than 2 GiB of bytes at once
        cell = column[int(row)].as_py()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        label = f"{path or name}#{row}"
        if content is None:
            raise DataError(f"{name}: {label} holds no image bytes; embed the images in the file, or drop the row")
        files.append((label, content))
    return files


def _labels(table: Table, rows: NDArray[np.intp]) -> NDArray[np.int64] | None:
    import pyarrow.types as types

    if "label" not in table.column_names:
        return None
    column = table.column("label")
    if not types.is_integer(column.type) or column.null_count:
        return None
    labels = column.to_numpy()[rows].astype(np.int64)
    return None if (labels < 0).all() else labels


def _numeric_rows(
    table: Table, rows: NDArray[np.intp], name: str, options: ReadOptions
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the numeric columns as rows (n, columns), and their names."""
    import pyarrow.types as types

    if options.resize is not None:
        raise DataError(f"{name} has no image column; only images can be resized")
    columns = [c for c in table.column_names if c != "label" and not _INDEX.fullmatch(c)]
    kinds = {c: table.schema.field(c).type for c in columns}
    other = [f"{c} ({k})" for c, k in kinds.items() if not (types.is_integer(k) or types.is_floating(k))]
    if other or not columns:
        raise DataError(
            f"{name} has no image column and the columns {other or table.column_names} are not numeric features; "
            "expected a column 'image' of encoded images, or numeric columns only"
        )
    # Beside numeric columns a label that is none may be a feature: it is not left out unsaid.
    if "label" in table.column_names and not types.is_integer(kind := table.schema.field("label").type):
        raise DataError(
            f"{name}: the column 'label' is {kind}, expected labels as integers; rename the column if it is a feature, "
            "or convert or drop it"
        )
    empty = [c for c in table.column_names if table.column(c).null_count]
    if empty:
        raise DataError(f"{name}: the column '{empty[0]}' has rows without a value; fill or drop them")
    values = [_floats(table.column(c).to_numpy()[rows], f"{name}: the column '{c}'") for c in columns]
    return np.stack(values, axis=1), tuple(columns)


def _floats(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    """Return numbers (N,) as float64; one that it would round, a large integer, is a :class:`DataError`."""
    floats = values.astype(np.float64)
    large = np.flatnonzero(np.abs(floats) >= LARGEST_EXACT) if values.dtype.kind in "iu" else ()
    for row in large:
        # as Python's integers: numpy compares them as floats
        given, held = int(values[row]), int(floats[row])
        if given != held:
            raise DataError(
                f"{what} holds {given}, which float64 rounds to {held}; subtract an offset, split it into two columns, "
                "or drop it"
            )
    return floats
