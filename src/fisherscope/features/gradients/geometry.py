"""Shapes of convolutions, and equal ones in another form."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch


@dataclass(frozen=True)
class Geometry:
    """Shape of a convolution.

    Attributes:
        weight: (O, C / groups, *kernel).
        stride, padding, dilation: one number an axis.
        groups: channel groups.
        kernel: kernel size, one number an axis.
        dense_unit: whether stride and dilation are 1 everywhere and channels are not grouped.
        pointwise: whether every output position sees exactly the input at the same position.
    """

    weight: torch.Size
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    kernel: torch.Size = field(init=False)
    dense_unit: bool = field(init=False)
    pointwise: bool = field(init=False)

    def __post_init__(self) -> None:
        """Derive the rest once: a model has few geometries and asks for them in every pass."""
        dense_unit = self.groups == 1 and set(self.stride) == {1} == set(self.dilation)
        object.__setattr__(self, "kernel", self.weight[2:])
        object.__setattr__(self, "dense_unit", dense_unit)
        object.__setattr__(self, "pointwise", dense_unit and set(self.kernel) == {1} and set(self.padding) == {0})

    @cached_property
    def exchanged(self) -> Geometry:
        """The same weight gradient, its channels swapped and its taps reversed, as that of a convolution of g to x."""
        out, each, *kernel = self.weight
        padding = tuple(k - 1 - p for k, p in zip(kernel, self.padding, strict=True))
        return Geometry(torch.Size((each, out, *kernel)), self.stride, padding, self.dilation, 1)
