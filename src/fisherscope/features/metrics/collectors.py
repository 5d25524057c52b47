"""Reductions that collect from the fit samples that a stage is shown: all, or the metric's ``max_samples``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fisherscope.core.errors import DataError
from fisherscope.features.gradients import Reduction
from fisherscope.features.gradients.forms import GradientForm


def require_finite(collected: Tensor, name: str, form: GradientForm, seen: int) -> None:
    """Check what was collected of the gradients of one batch: NaN in one sample's would spoil the whole metric.

    Args:
        collected: NaN or infinite if a gradient is.
        name: of the parameter.
        form: the gradients.
        seen: number of samples before these.

    Raises:
        DataError: it is not finite; the message names the parameter and, where there is one, the sample.
    """
    if bool(collected.isfinite().all()):
        return
    finite = form.vectors().isfinite().all(1)
    if bool(finite.all()):
        raise DataError(
            f"the squared gradients of '{name}' are too large for {form.sample.dtype}; use float64, or another unit of "
            "log p"
        )
    sample = seen + int((~finite).nonzero()[0])
    raise DataError(
        f"the gradient of '{name}' is NaN or infinite for fit sample {sample} (counted from 0 in the order of the fit) "
        "although its log p is finite; leave that sample out, or look at roots and norms that log_prob takes of 0"
    )


class Several(Reduction):
    """Collectors that see the same gradients."""

    def __init__(self, members: Sequence[Reduction]) -> None:
        self._members = tuple(members)
        self.needs_factors = any(member.needs_factors for member in members)

    def update(self, name: str, form: GradientForm) -> None:
        for member in self._members:
            member.update(name, form)

    def result(self, names: list[str]) -> None:
        return None


class Shapes(Reduction):
    """Shape of every parameter tensor."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def update(self, name: str, form: GradientForm) -> None:
        self.shapes[name] = tuple(form.shape)

    def result(self, names: list[str]) -> None:
        return None
