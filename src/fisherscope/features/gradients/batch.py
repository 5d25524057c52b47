"""A batch of samples: the user's pytree, flat, with the samples' keys and the groups they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.features.gradients.logprob import pytree_keys, tensor_leaves


@dataclass(frozen=True)
class Batch:
    """Samples in order, ``group_size`` after ``group_size`` judged together.

    Attributes:
        leaves: tensors whose first axis is the batch.
        spec: structure of the user's pytree.
        keys: sample keys (n,), uint64.
        group_size: B.
        first: index of the first sample in the user's batch; error messages name it.
    """

    leaves: tuple[Tensor, ...]
    spec: pytree.TreeSpec
    keys: KeyArray
    group_size: int
    first: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self) // self.group_size

    def tree(self, leaves: Sequence[Tensor] | None = None) -> Any:
        """Return the samples (or ``leaves`` in their place) in the structure that the user gave.

        The samples are copies: a model may change its input in place.
        """
        given = [leaf.clone() for leaf in self.leaves] if leaves is None else list(leaves)
        return pytree.tree_unflatten(given, self.spec)

    def groups(self, start: int, stop: int) -> Batch:
        """Return the batch of some consecutive groups."""
        return self.rows(range(start * self.group_size, stop * self.group_size), self.group_size)

    def rows(self, index: Sequence[int], group_size: int = 1) -> Batch:
        """Return the batch of some samples, in the order given."""
        index = list(index)
        consecutive = index == list(range(index[0], index[0] + len(index)))
        at: Any = slice(index[0], index[0] + len(index)) if consecutive else index
        leaves = tuple(leaf[at] for leaf in self.leaves)
        return Batch(leaves, self.spec, self.keys[at], group_size, self.first + index[0])


def make_batch(x: Any, keys: KeyArray | None, group_size: int) -> Batch:
    """Return the batch of a user's pytree.

    Raises:
        DataError: x is empty, ragged, holds no tensors or no whole number of groups, or keys do not fit it.
        SettingError: ``group_size`` below 1.
    """
    leaves = tensor_leaves(x)
    n = len(leaves[0])
    if group_size < 1:
        raise SettingError(f"group_size is {group_size}; expected 1 or more")
    if n % group_size:
        raise DataError(
            f"{n} samples do not divide into groups of {group_size}; drop {n % group_size} or change group_size"
        )
    made = pytree_keys(x) if keys is None else np.asarray(keys)
    if made.shape != (n,) or made.dtype != np.uint64:
        raise DataError(f"keys are {made.dtype} {made.shape}; expected uint64 ({n},), one a sample")
    # a sample that hangs on the model's graph is a sample like any other
    return Batch(tuple(leaf.detach() for leaf in leaves), pytree.tree_structure(x), made, group_size)
