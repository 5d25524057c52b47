"""What one call asks of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn import Parameter

from fisherscope.features.gradients.guards import LayerMode
from fisherscope.features.gradients.logprob import BoundLogProb, LogProb
from fisherscope.features.gradients.reductions import Reduction


@dataclass(frozen=True)
class Job:
    """One call's model and wishes.

    Attributes:
        module: the model.
        log_prob: what the user gave as such, or None.
        bound: log p of samples, seed and keys.
        modes: how each of the model's layers runs.
        parameters: trainable parameters by name.
        reductions: what to keep of the gradients.
        seed: seed of the model's noise.
    """

    module: nn.Module
    log_prob: LogProb | None
    bound: BoundLogProb
    modes: tuple[LayerMode, ...]
    parameters: Mapping[str, Parameter]
    reductions: Sequence[Reduction]
    seed: int

    @property
    def hooked(self) -> dict[str, str]:
        """The parameters whose gradients the user's own hooks change, which autograd alone calls, with the reason."""
        return {name: "has a gradient hook" for name, p in self.parameters.items() if p._backward_hooks}
