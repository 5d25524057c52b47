"""The layers' numbers: one positive value a group and layer, on the log scale."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import DataError, NotFittedError
from fisherscope.core.table import FeatureTable, is_group_block
from fisherscope.detectors.columns import column_names

Array = NDArray[np.float64]

_ROUND_OFF: Final = 100.0


def layer_values(table: FeatureTable, block: str) -> Array:
    """Return the numbers of a block, (N, L), one row a group.

    A block with an axis of members holds each member's share of the group's number.
    """
    values: Array = table.block(block).astype(np.float64)
    return values if is_group_block(block) else values.sum(1)


def resolution(values: Array, dtype: str) -> float:
    """Return the squared norm below which f_l is round-off: (100 eps)^2 times the median of sum_l f_l.

    A gradient that is zero by symmetry (the bias of attention keys) is computed as round-off, whose logarithm is
    noise; comparing with the size of the model's whole gradient tells it from a small one.
    """
    return relative_round_off(dtype) ** 2 * float(np.median(values.sum(1)))


def relative_round_off(dtype: str) -> float:
    """Return the share of a number's size below which a difference is round-off: 100 eps of the dtype."""
    return _ROUND_OFF * float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps)


def informative_layers(values: Array, dtype: str) -> tuple[NDArray[np.intp], float]:
    """Return the columns whose logarithm varies over the fit groups and is no round-off, and the resolution.

    Args:
        values: f_l of the fit groups, (N, L).
        dtype: in which they were computed.

    Raises:
        DataError: no layer is left.
    """
    floor = resolution(values, dtype)
    spread = log_values(values, floor).std(0)
    varies = (spread > relative_round_off(dtype)) & (np.median(values, axis=0) > floor)
    if not varies.any():
        raise DataError(
            f"no layer's gradient norm varies over the {len(values)} fit groups; "
            "give different samples, or check that log_prob depends on the parameters"
        )
    return np.flatnonzero(varies), floor


def spread_to_block(per_group: Array, table: FeatureTable, block: str) -> Array:
    """Return d score / d block for d score / d (numbers of :func:`layer_values`), (N, L), in the block's shape."""
    if is_group_block(block):
        return per_group
    # the group's number is the sum of its members' shares
    return np.repeat(per_group[:, None], table.block(block).shape[1], axis=1)


def log_slope(values: Array, floor: float) -> Array:
    """Return the derivative of :func:`log_values`: 1 / f_l, 0 below the floor."""
    bound = max(float(floor), float(np.finfo(np.float64).tiny))
    slope: Array = np.where(values > bound, 1 / np.maximum(values, bound), 0.0)
    return slope


def log_values(values: Array, floor: float) -> Array:
    """Return log max(f_l, floor): a layer that a sample does not reach gives a small, finite number."""
    logs: Array = np.log(np.maximum(values, max(float(floor), float(np.finfo(np.float64).tiny))))
    return logs


class KeptLayers:
    """What a detector is too when it reads log f_l of the layers that vary on the fit set, from its first block.

    A layer whose f_l is below the resolution in more than half of the fit groups is left out too: however large its
    gradient is in a new group, the score does not see it. ``dropped_layers`` says which layers these are.

    Attributes:
        name: of the detector.
        kept_: column numbers of those layers.
        floor_: the arithmetic's resolution, as which smaller values count.
    """

    name: str
    requires: tuple[str, ...]
    columns_: NDArray[np.uint8]
    kept_: NDArray[np.intp]
    floor_: float

    @property
    def dropped_layers(self) -> dict[int, str]:
        """Names of the layers that the score does not see, by column number; where a table has no names, the numbers.

        Raises:
            NotFittedError: it is not fitted, or was saved by a version that did not keep the names.
        """
        if not hasattr(self, "columns_"):
            raise NotFittedError(f"{self.name} knows no layers, as it was not fitted by this version; call fit first")
        names = column_names(self.columns_, self.requires[0])
        return {i: name for i, name in enumerate(names) if i not in self.kept_}

    def _keep(self, table: FeatureTable) -> None:
        """Learn which layers vary."""
        self.kept_, self.floor_ = informative_layers(layer_values(table, self.requires[0]), table.card.dtype)

    def log_norms(self, table: FeatureTable) -> Array:
        """Return log f_l of the layers that are kept, shape (N, len(kept_))."""
        return log_values(layer_values(table, self.requires[0]), self.floor_)[:, self.kept_]

    def _block_slope(self, slope: Array, table: FeatureTable) -> Array:
        """Return d score / d block for d score / d :meth:`log_norms`, (N, len(kept_)), in the block's shape."""
        block = self.requires[0]
        values = layer_values(table, block)
        layers = np.zeros_like(values)
        layers[:, self.kept_] = slope
        return spread_to_block(layers * log_slope(values, self.floor_), table, block)
