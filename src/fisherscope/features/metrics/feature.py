"""One block of a feature table that a gradient pass fills."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from fisherscope.features.gradients import Reduction


class GradientFeature(ABC):
    """How a reduction of the per-group gradients becomes a block.

    Attributes:
        block: name of the block.
        per_sample: whether the pass has to look at samples one by one whatever the group size.
        per_term: whether it is one of each term of log p, where that is a sum of several (``features/terms.py``); the
            block's last axis then has its columns for one term after the other.
        metric: fingerprint of the fitted metric that the gradients are measured in; None where there is none.
    """

    block: str
    per_sample: bool
    per_term: bool = False
    metric: str | None = None

    @abstractmethod
    def reduction(self, module: nn.Module, group_size: int) -> Reduction:
        """Return a fresh reduction for one batch; ``group_size`` is B, 1 where ``per_sample``."""

    @abstractmethod
    def to_block(self, result: Any, group_size: int) -> Tensor:
        """Return the rows of the block, one a sample (``per_sample``) or one a group.

        Args:
            result: of the reduction.
            group_size: B, of the table.
        """

    def columns(self, module: nn.Module) -> tuple[str, ...] | None:
        """Return the names of the block's last axis, or None where it has none, as here."""
        return None

    @abstractmethod
    def settings(self, module: nn.Module) -> dict[str, Any] | None:
        """Return what the table's card must say of this block, JSON values; None for nothing."""


def trainable_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameter tensors that gradients are taken of, in the order of a pass."""
    return tuple(name for name, p in module.named_parameters() if p.requires_grad)
