"""The waist of the hourglass: named blocks of numbers about samples or groups, with a card that says whence.

Left of it there is torch; right of it only numpy and scikit-learn. A table is computed once, stored, and every
detector, table and figure can be rebuilt from it without the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import CardMismatchError, DataError, some_of
from fisherscope.core.keys import KeyArray
from fisherscope.core.parts import part
from fisherscope.core.store import read_arrays, write_arrays

FORMAT_VERSION: Final = 1

GROUP_BLOCKS: Final = frozenset({"grad_norm", "sketch_norm", "term_norm"})
"""Blocks that hold one row of numbers a group; all others hold one a sample, with axes (group, member, ...)."""

GRADIENT_BLOCKS: Final = frozenset({*GROUP_BLOCKS, "sketch", "layer_sketch", "metric"})
"""Blocks of the parameter gradient: what their last axes mean follows from the model's parameters and the metric."""

SKETCH_KINDS: Final = ("countsketch", "equalised", "whitened", "whitened-inputs", "whitened-outputs")
"""Fisher metrics that are a choice of a sketch's projections; their blocks are sketches, not quadratic forms."""

GLOBAL_SKETCH: Final = "gaussian"
"""One more, of the whole gradient: it has no numbers of single layers."""


def is_group_block(name: str) -> bool:
    """Return whether a block, measured in whichever metric (``BLOCK:METRIC``), holds one row of numbers a group."""
    return name.partition(":")[0] in GROUP_BLOCKS


def is_gradient_block(name: str) -> bool:
    """Return whether a block, measured in whichever metric, holds numbers of the parameter gradient."""
    return name.partition(":")[0] in GRADIENT_BLOCKS


@dataclass(frozen=True)
class Card:
    """Where a table's numbers come from. Two tables may meet in one detector only if their cards agree.

    Attributes:
        model: fingerprint of the model's parameters and buffers.
        model_name: what the user called it; informative, never compared.
        data: fingerprint of the samples in their order.
        data_name: what the user called them; informative, never compared.
        group_size: B, how many samples are judged together.
        seed: seed of the model's per-sample noise.
        dtype: floating dtype in which the features were computed.
        settings: further settings of the extractors, JSON values.
        format_version: version of the file format.
    """

    model: str
    model_name: str
    data: str
    data_name: str
    group_size: int
    seed: int
    dtype: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    COMPARED = ("format_version", "model", "group_size", "seed", "dtype", "settings")

    def require_same(
        self,
        other: Card,
        *,
        data: bool = False,
        advice: str = "extract the features again with the same model and settings",
    ) -> None:
        """Raise :class:`CardMismatchError` naming the first field in which ``other`` differs.

        Args:
            other: the card that was found.
            data: whether the samples must be the same ones too (resuming), or only model and settings (scoring).
            advice: what the message tells to do.
        """
        for name in (*self.COMPARED, *(("data",) if data else ())):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise CardMismatchError(name, mine, theirs, advice)

    def digest(self) -> str:
        """Return 16 hexadecimal digits that name this card; cache files carry them in their names."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Card:
        """Return the card that ``dataclasses.asdict`` turned into ``value``."""
        version = value.get("format_version")
        if version != FORMAT_VERSION:
            raise CardMismatchError(
                "format_version", FORMAT_VERSION, version, "the file was written by another version of fisherscope"
            )
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in value.items() if k in known})


@dataclass(frozen=True)
class FeatureTable:
    """Named blocks whose first axis is the group (a group of one is the ordinary sample).

    Attributes:
        blocks: ``grad_norm``, ``sketch_norm`` (N, L) and ``term_norm`` (N, T L) hold one row a group; every other block
            one row a sample:
            ``log_p`` (N, B) in nats, ``pixels`` (N, B, ...), ``sketch`` (N, B, K).
        columns: names of the last axis of a block, e.g. the parameter names of ``grad_norm``.
        ids: N tuples of B sample names.
        keys: sample keys, shape (N, B), dtype uint64.
        card: provenance.
    """

    blocks: Mapping[str, NDArray[Any]]
    columns: Mapping[str, tuple[str, ...]]
    ids: tuple[tuple[str, ...], ...]
    keys: KeyArray
    card: Card

    def __post_init__(self) -> None:
        """Check that the axes agree and that no value is NaN or inf."""
        n, b = len(self.ids), self.card.group_size
        if self.keys.shape != (n, b):
            raise DataError(f"keys have shape {self.keys.shape}, expected {(n, b)}: {n} groups of {b}")
        for name, block in self.blocks.items():
            lead = (n,) if is_group_block(name) else (n, b)
            if block.shape[: len(lead)] != lead:
                raise DataError(f"block '{name}' has shape {block.shape}, expected it to start with {lead}")
            if name in self.columns and block.shape[-1] != len(self.columns[name]):
                raise DataError(
                    f"block '{name}' has {block.shape[-1]} columns but {len(self.columns[name])} column names"
                )
            if block.dtype.kind == "f" and not np.isfinite(block).all():
                # By name: which row it is says nothing to whoever extracts, batch by batch.
                rows = np.flatnonzero(~np.isfinite(block.reshape(n, -1)).all(1))
                groups = [f"({', '.join(self.ids[row])})" for row in rows]
                raise DataError(
                    f"block '{name}' holds NaN or inf for {some_of(groups)}; "
                    "look at these samples and at the model's log-prob of them"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def block(self, name: str) -> NDArray[Any]:
        """Return a block; an unknown name is an error that lists the known ones."""
        if name not in self.blocks:
            raise DataError(f"the table has no block '{name}', only {sorted(self.blocks)}; extract it with that block")
        return self.blocks[name]

    def select(self, rows: slice | Sequence[int] | NDArray[np.intp]) -> FeatureTable:
        """Return the table of some rows, in the order given."""
        index = np.arange(len(self))[rows]
        return replace(
            self,
            blocks={k: v[index] for k, v in self.blocks.items()},
            ids=tuple(self.ids[i] for i in index),
            keys=self.keys[index],
        )

    @staticmethod
    def concatenate(tables: Sequence[FeatureTable]) -> FeatureTable:
        """Return the rows of several tables of one card, one table after another."""
        first = tables[0]
        for other in tables[1:]:
            first.card.require_same(other.card)
            for block in sorted({*first.columns, *other.columns}):
                require_columns(first.columns.get(block, ()), other.columns.get(block, ()))
        return replace(
            first,
            blocks={k: np.concatenate([t.block(k) for t in tables]) for k in first.blocks},
            ids=tuple(i for t in tables for i in t.ids),
            keys=np.concatenate([t.keys for t in tables]),
        )

    def save(self, path: str | Path) -> None:
        """Write the table as one safetensors file, atomically, the card inside."""
        card = {
            "card": asdict(self.card),
            "columns": {k: list(v) for k, v in self.columns.items()},
            "ids": [list(i) for i in self.ids],
        }
        write_arrays(Path(path), {**{f"block.{k}": v for k, v in self.blocks.items()}, "keys": self.keys}, card)

    @classmethod
    def load(cls, path: str | Path) -> FeatureTable:
        """Read a table; a truncated or foreign file is a :class:`DataError`."""
        arrays, head = read_arrays(Path(path))
        if not isinstance(head, dict) or not {"card", "columns", "ids"} <= head.keys():
            raise DataError(f"{path} is not a feature table")
        return cls(
            blocks=part(arrays, "block."),
            columns={k: tuple(v) for k, v in head["columns"].items()},
            ids=tuple(tuple(i) for i in head["ids"]),
            keys=arrays["keys"],
            card=Card.from_json(head["card"]),
        )


def require_columns(expected: tuple[str, ...], found: tuple[str, ...]) -> None:
    """Raise :class:`CardMismatchError` when the layers of two tables differ, with the first that does."""
    if expected == found:
        return
    place = next(i for i, (mine, other) in enumerate(zip_longest(expected, found)) if mine != other)

    def said(names: tuple[str, ...]) -> str:
        return f"{len(names)} columns" + (f", column {place} {names[place]}" if place < len(names) else "")

    advice = "extract the features again with the same model, or fit again if the model or fisherscope has changed"
    raise CardMismatchError("columns", said(expected), said(found), advice)
