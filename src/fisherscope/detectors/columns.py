"""Which layers a detector was fitted on, as plain numbers that are saved with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import CardMismatchError
from fisherscope.core.table import FeatureTable, is_gradient_block, is_group_block

_ADVICE: Final = "{} was fitted on the former: extract the features again with the same model and settings"


def gradient_columns(table: FeatureTable, blocks: Iterable[str]) -> NDArray[np.uint8] | None:
    """Return axes and column names of those blocks that hold gradients, JSON as bytes; None where none does.

    Raises:
        DataError: the table lacks a block.
    """
    found = {block: _axes(table, block) for block in blocks if is_gradient_block(block)}
    return np.frombuffer(json.dumps(found).encode(), np.uint8).copy() if found else None


def require_same_columns(known: NDArray[np.uint8], table: FeatureTable, name: str) -> None:
    """Check a table against what :func:`gradient_columns` returned for the fit table.

    Args:
        known: of the fit table.
        table: to be scored.
        name: of the detector, for the message.

    Raises:
        CardMismatchError: other sizes, or other names where both tables have names.
        DataError: the table lacks a block.
    """
    for block, expected in json.loads(known.tobytes()).items():
        found = _axes(table, block)
        if found["sizes"] != expected["sizes"]:
            raise CardMismatchError(
                f"size of {block}", _sizes(expected["sizes"]), _sizes(found["sizes"]), _ADVICE.format(name)
            )
        if expected["names"] and found["names"]:
            for i, (mine, other) in enumerate(zip(expected["names"], found["names"], strict=True)):
                if mine != other:
                    raise CardMismatchError(f"column {i} of {block}", mine, other, _ADVICE.format(name))


def column_names(known: NDArray[np.uint8], block: str) -> tuple[str, ...]:
    """Return the names of the last axis of a block of the fit table, or its numbers where they have no names.

    Args:
        known: what :func:`gradient_columns` returned for the fit table.
        block: that it holds.
    """
    axes = json.loads(known.tobytes())[block]
    return tuple(axes["names"]) or tuple(map(str, range(axes["sizes"][-1])))


def _axes(table: FeatureTable, block: str) -> dict[str, Any]:
    lead = 1 if is_group_block(block) else 2
    return {"sizes": list(table.block(block).shape[lead:]), "names": list(table.columns.get(block, ()))}


def _sizes(sizes: list[int]) -> str:
    return " x ".join(map(str, sizes))
