"""The uses of parameters in one forward pass, and the plan that later passes follow."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import NamedTuple

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
    """

    op: str
    parameters: tuple[str, ...]
    context: Set[str]


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


class PlanMismatchError(Exception):
    """A forward pass did not use its parameters as the plan says. Never leaves the package."""
