"""What is kept of the per-sample gradients: reductions that one pass feeds, parameter by parameter.

For each micro-batch every trainable parameter is given exactly once, in no particular order; a parameter that
does not touch log p comes as zeros.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fisherscope.core.errors import SettingError
from fisherscope.features.gradients.forms import GradientForm, KroneckerFactors


class Reduction(ABC):
    """Consumer of per-group gradients.

    Attributes:
        needs_factors: whether it asks forms for Kronecker factors, which the plain loop's gradients do not have.
        whole_batch: whether all groups must come in one micro-batch.
    """

    needs_factors: bool = False
    whole_batch: bool = False

    @abstractmethod
    def update(self, name: str, form: GradientForm) -> None:
        """Take the gradients of one parameter for the groups of one micro-batch."""

    @abstractmethod
    def result(self, names: list[str]) -> Any:
        """Return what was asked for, parameters in the order of ``names``."""


class SquaredNorms(Reduction):
    """``f_l``: name -> (n_groups,), the squared L2 norm of each group's gradient."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def update(self, name: str, form: GradientForm) -> None:
        self._parts.setdefault(name, []).append(form.squared_norm())

    def result(self, names: list[str]) -> dict[str, Tensor]:
        return {name: torch.cat(self._parts[name]) for name in names}


class GroupGradients(Reduction):
    """The gradients themselves: name -> (n_groups, *shape). For tests and small models."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def update(self, name: str, form: GradientForm) -> None:
        self._parts.setdefault(name, []).append(form.dense())

    def result(self, names: list[str]) -> dict[str, Tensor]:
        return {name: torch.cat(self._parts[name]) for name in names}


class GradientEntries(Reduction):
    """Some entries of some gradients: name -> (n_groups, k).

    Args:
        entries: numbers of the wanted entries of the flattened gradient, (k,), by parameter; others are left alone.
    """

    def __init__(self, entries: Mapping[str, Tensor]) -> None:
        self._entries = entries
        self._parts: dict[str, list[Tensor]] = {name: [] for name in entries}

    def update(self, name: str, form: GradientForm) -> None:
        if name in self._entries:
            rows = form.vectors()
            self._parts[name].append(rows[:, self._entries[name].to(rows.device)])

    def result(self, names: list[str]) -> dict[str, Tensor]:
        return {name: torch.cat(self._parts[name]) for name in names if name in self._entries}


class SquareSums(Reduction):
    """Diagonal of the empirical Fisher matrix, unnormalised: name -> shape, sum over groups of squared entries."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def update(self, name: str, form: GradientForm) -> None:
        dense = form.dense()
        squares = (dense.abs() if dense.is_complex() else dense).square().sum(0)
        self._sums[name] = self._sums[name] + squares if name in self._sums else squares

    def result(self, names: list[str]) -> dict[str, Tensor]:
        return {name: self._sums[name] for name in names}


class GramBlocks(Reduction):
    """Inner products between groups, layer by layer: name -> (n_groups, n_groups)."""

    whole_batch = True

    def __init__(self) -> None:
        self._blocks: dict[str, Tensor] = {}

    def update(self, name: str, form: GradientForm) -> None:
        rows = form.vectors()
        self._blocks[name] = rows @ rows.mT

    def result(self, names: list[str]) -> dict[str, Tensor]:
        return {name: self._blocks[name] for name in names}


class Kronecker(Reduction):
    """Sums behind the Kronecker factors: name -> :class:`KroneckerFactors`, for parameters that have them.

    Parameters used once in a linear map or a convolution have them; biases, scales, tied and derived parameters
    do not and are left out. A group counts as the sum of its samples.
    """

    needs_factors = True

    def __init__(self) -> None:
        self._sums: dict[str, KroneckerFactors] = {}

    def update(self, name: str, form: GradientForm) -> None:
        new = form.kronecker()
        old = self._sums.get(name)
        if new is None:
            return
        if old is not None:
            new = KroneckerFactors(
                old.inputs + new.inputs,
                old.outputs + new.outputs,
                old.positions + new.positions,
                old.groups + new.groups,
                new.inputs_first,
            )
        self._sums[name] = new

    def result(self, names: list[str]) -> dict[str, KroneckerFactors]:
        return {name: self._sums[name] for name in names if name in self._sums}


def check_reductions(reductions: list[Reduction], n_micro_batches: int) -> None:
    """Refuse reductions that need all groups at once when the memory budget splits the batch."""
    if n_micro_batches > 1:
        for reduction in reductions:
            if reduction.whole_batch:
                raise SettingError(
                    f"{type(reduction).__name__} needs the whole batch in one piece, but max_memory splits it into "
                    f"{n_micro_batches}; raise max_memory or pass fewer samples"
                )
