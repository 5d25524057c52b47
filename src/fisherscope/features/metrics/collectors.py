"""Reductions that collect from the fit samples that a stage is shown: all, or the metric's ``max_samples``."""

from __future__ import annotations

from collections.abc import Sequence

from fisherscope.features.gradients import Reduction
from fisherscope.features.gradients.forms import GradientForm


class Several(Reduction):
    """Collectors that see the same gradients."""

    def __init__(self, members: Sequence[Reduction]) -> None:
        self._members = tuple(members)
        self.needs_factors = any(member.needs_factors for member in members)

    @property
    def whole_batch(self) -> bool:
        return False

    def update(self, name: str, form: GradientForm) -> None:
        for member in self._members:
            member.update(name, form)

    def result(self, names: list[str]) -> None:
        return None


class Shapes(Reduction):
    """Shape of every parameter tensor."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    @property
    def whole_batch(self) -> bool:
        return False

    def update(self, name: str, form: GradientForm) -> None:
        self.shapes[name] = tuple(form.shape)

    def result(self, names: list[str]) -> None:
        return None
