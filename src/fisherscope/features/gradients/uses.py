"""The uses of parameters in one forward pass, and the plan that later passes follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor

from fisherscope.features.gradients.call import Call
from fisherscope.features.gradients.layout import Layout


class UseKey(NamedTuple):
    """What identifies a use from one forward pass to the next.

    Attributes:
        op: name of the torch function.
        parameters: names of the parameters behind its weight-like operands.
        context: names of the data ops since the use before.
        placings: in order, those by which the samples come to lie on one axis or another, with their numbers.
    """

    op: str
    parameters: tuple[str, ...]
    context: Set[str]
    placings: tuple[str, ...] = ()


@dataclass(slots=True)
class Use:
    """One use as it happened.

    Attributes:
        key: identity.
        call: the op with its operands; dropped once its gradients are delivered.
        shape: shape of the output.
        batch_sized: whether every data operand's first axis was as long as the batch.
        assumed: whether its layout is to be confirmed once a gradient arrives.
        rule: name of the rule that serves it.
        seconds: time spent in that rule.
        nbytes: bytes kept for it between forward and backward.
        support: in a probe, the support of the output gradient by sample.
    """

    key: UseKey
    call: Call | None
    shape: torch.Size
    batch_sized: bool = True
    assumed: bool = False
    rule: str = ""
    seconds: float = 0.0
    nbytes: int = 0
    support: dict[int, list[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class UsePlan:
    """How a use is to be served.

    Attributes:
        key: its identity.
        shape: of its output in the probe.
        layout: of its output; None: no gradient reached it, or the loop serves it.
        sliceable: whether samples can be cut out of its operands.
        assumed: whether the layout rests on shapes alone, as every gradient was zero in the probe.
    """

    key: UseKey
    shape: torch.Size
    layout: Layout | None
    sliceable: bool
    assumed: bool


class Passes:
    """Counts the passes that follow a plan, and says which of them are to be checked."""

    def __init__(self) -> None:
        self._count = 0
        self._distrusted = False

    def distrust(self) -> None:
        """Have every later pass checked, as samples were seen to interact in one."""
        self._distrusted = True

    def begin(self) -> None:
        """Count one more."""
        self._count += 1

    @property
    def thorough(self) -> bool:
        """Whether the gradients of this one are to be compared with the loop's: of the first, tenth, hundredth ..."""
        return self._count in _TENS

    @property
    def quick(self) -> bool:
        """Whether log p of some samples is to be compared with that by themselves: of the second, fourth, eighth ..."""
        return self._distrusted or (self._count > 1 and self._count & (self._count - 1) == 0)


_TENS: Final = frozenset(10**i for i in range(12))


@dataclass(frozen=True)
class Plan:
    """How one model is served.

    Attributes:
        uses: its uses of parameters in order.
        looped: parameters that the loop serves, by name, with the reason.
        loop_all: why everything is looped, or None.
        bytes_fixed: memory of a pass that does not grow with the batch.
        bytes_per_sample: memory that does.
        settled: whether it may serve later batches too: not if a use is looped because its gradients were all zero, or
            because the batched ones differed from the loop's.
        passes: how often it was followed.
    """

    uses: tuple[UsePlan, ...] = ()
    looped: Mapping[str, str] = field(default_factory=dict)
    loop_all: str | None = None
    bytes_fixed: int = 0
    bytes_per_sample: int = 0
    settled: bool = True
    passes: Passes = field(default_factory=Passes, compare=False, repr=False)

    def looped_of(self, hooked: Mapping[str, str]) -> Mapping[str, str]:
        """Return the parameters that the loop serves now that some have hooks, by name, with the reason."""
        return spread({**self.looped, **hooked}, self.uses) if hooked else self.looped


def spread(looped: Mapping[str, str], uses: Iterable[UsePlan]) -> dict[str, str]:
    """Extend the looped parameters to those that share a use with one of them."""
    spread = dict(looped)
    while True:
        size = len(spread)
        for use in uses:
            reasons = [spread[name] for name in use.key.parameters if name in spread]
            if reasons:
                spread |= {name: reasons[0] for name in use.key.parameters if name not in spread}
        if len(spread) == size:
            return spread


class PlanMismatchError(Exception):
    """A forward pass did not use its parameters as the plan says. Never leaves the package."""
