"""The contract of a detector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError, NotFittedError, SettingError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.columns import gradient_columns, require_same_columns

Scores = NDArray[np.float64]


class Detector(ABC):
    """Turns the blocks of a feature table into one score a group. Higher = more novel.

    What ``fit`` learns goes into attributes whose names end in ``_``: arrays or numbers, which is what gets saved.

    Attributes:
        name: how the command line and the tables call it.
        requires: blocks it reads; it sees no others.
        min_fit: fewest fit groups it works with.
        columns_: sizes and names of the layers it was fitted on, see :func:`gradient_columns`. Detectors that read no
            gradients have none.
    """

    name: str
    requires: tuple[str, ...]
    min_fit: int = 2

    columns_: NDArray[np.uint8]

    @abstractmethod
    def _fit(self, table: FeatureTable) -> None:
        """Learn from in-distribution groups only."""

    @abstractmethod
    def _score(self, table: FeatureTable) -> Scores:
        """Return the novelty of every group, shape (n_groups,)."""

    def fit(self, table: FeatureTable) -> Self:
        """Learn from a table of in-distribution groups that the model was not trained on; return self."""
        if len(table) < self.min_fit:
            raise DataError(
                f"{self.name} was given {len(table)} fit groups of {table.card.group_size}, "
                f"it needs at least {self.min_fit}; give more in-distribution samples"
            )
        columns = gradient_columns(table, self.requires)
        self._fit(table)
        if columns is not None:
            self.columns_ = columns
        if not self.state():
            raise SettingError(
                f"{self.name} has learnt nothing: its _fit must set at least one attribute whose name ends in '_'"
            )
        self._settle()
        return self

    def score(self, table: FeatureTable) -> Scores:
        """Return the novelty of every group, shape (n_groups,), float64. Higher = more novel.

        Raises:
            NotFittedError: it is not fitted.
            CardMismatchError: the table's layers are not those of the fit table.
            DataError: the table lacks a block, or a score is not finite.
        """
        if not self.state():
            raise NotFittedError(f"{self.name} was asked for scores before it was fitted; call fit first")
        self.require_same_columns(table)
        scores = np.asarray(self._score(table))
        if scores.shape != (len(table),) or scores.dtype.kind not in "fiu":
            raise DataError(
                f"{self.name} gives scores of {scores.dtype} {scores.shape} for {len(table)} groups, expected a number "
                "for each; correct its _score"
            )
        if not np.isfinite(scores).all():
            row = int(np.argmax(~np.isfinite(scores)))
            raise DataError(f"{self.name} gives {scores[row]} for {', '.join(table.ids[row])}; look at that sample")
        return scores

    def require_same_columns(self, table: FeatureTable) -> None:
        """Raise :class:`CardMismatchError` when a table's layers are not those of the fit table."""
        if hasattr(self, "columns_"):
            require_same_columns(self.columns_, table, self.name)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what was learnt, by attribute name; empty before ``fit``."""
        return {k: np.asarray(v) for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_")}

    def _settle(self) -> None:
        """Turn what was learnt into what a saved file returns: arrays in rows, for sums round by the layout."""
        for name, value in self.state().items():
            if value.dtype.kind not in "biuf":
                raise SettingError(
                    f"{self.name} has learnt {name} = {getattr(self, name)!r}, which no file can hold; keep numbers or "
                    "arrays of numbers"
                )
            setattr(self, name, np.asarray(value, order="C"))

    def _take(self, learnt: Mapping[str, NDArray[Any]]) -> None:
        """Keep what a part of the detector, such as a density, has learnt, each name with its ``_``."""
        for name, value in learnt.items():
            setattr(self, f"{name}_", value)

    def _learnt(self) -> dict[str, NDArray[Any]]:
        """Return what was learnt by the names that :meth:`_take` was given."""
        return {name.removesuffix("_"): value for name, value in self.state().items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> Self:
        """Take over what another instance's :meth:`state` returned; return self."""
        for name, value in state.items():
            setattr(self, name, value)
        return self
