"""The second backward pass, which must not be silently incomplete."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fisherscope.core.errors import ModelError


def second_gradient(objective: Tensor | float, wanted: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradient of an objective that holds parameter gradients; None where it does not reach.

    Raises:
        ModelError: an op behind it has no second derivative.
    """
    if not wanted or not isinstance(objective, Tensor) or not objective.requires_grad:
        return [None] * len(wanted)
    # autograd.grad passes by the node that would raise, and returns what the other paths give
    if _has_dead_end(objective):
        raise _once_only("an autograd.Function in it is marked once_differentiable")
    try:
        return list(torch.autograd.grad(objective, wanted, allow_unused=True, retain_graph=True))
    except RuntimeError as cause:
        if isinstance(cause, torch.OutOfMemoryError) or "allocate memory" in str(cause):  # on the CPU a plain one
            raise
        raise _once_only(str(cause).splitlines()[0]) from None


def _has_dead_end(value: Tensor) -> bool:
    """Whether the graph of a value holds what autograd puts where a second derivative is missing."""
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            if type(node).__name__ == "Error":
                return True
            seen.add(node)
            left += [parent for parent, _ in node.next_functions]
    return False


def _once_only(reason: str) -> ModelError:
    return ModelError(
        f"log p cannot be differentiated twice: {reason}; replace that op in the model, or fit a detector that needs "
        "no parameter gradient, such as likelihood"
    )
