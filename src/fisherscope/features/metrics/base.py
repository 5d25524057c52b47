"""The contract of a Fisher metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fisherscope.features.gradients import Reduction
from fisherscope.features.metrics.feature import GradientFeature

State = dict[str, NDArray[Any]]


class FisherMetric(ABC):
    """An estimate M of the Fisher matrix from in-distribution samples, and the gradient features measured in it.

    A group's gradient d = sum_b s_b - B m has the squared length d^T (B M)^-1 d (docs/metrics.md). Fitting takes
    ``stages`` passes over the fit samples, or over ``max_samples`` of them, one by one; see
    :func:`fisherscope.features.metrics.fit.fit_metrics`.

    Attributes:
        name: how blocks and detectors call it.
        stages: number of passes that a fit takes.
        growing: stages that are repeated when new samples arrive; what the others learnt stays as it is.
        max_samples: fit samples that a pass has to show, at most, evenly spaced over all (projections of sketches are
            fitted on 256, low-rank metrics keep the gradients of as many); None: all.
    """

    name: str
    stages: int
    growing: tuple[int, ...]
    max_samples: int | None = None

    @abstractmethod
    def collector(self, stage: int) -> Reduction:
        """Return what has to see the gradients of a stage's fit samples; it goes on from what it has seen.

        They are all fit samples, or :attr:`max_samples` of them.

        It raises a :class:`DataError` that names the parameter where a gradient is NaN or infinite.

        Raises:
            DataError: it can take in no more samples.
        """

    @abstractmethod
    def finish(self, stage: int) -> None:
        """Learn from what the stage's collector has seen.

        Raises:
            DataError: the gradients of all fit samples are the same, or zero.
            ModelError: the metric needs Kronecker factors, and no parameter has any.
        """

    @abstractmethod
    def features(self) -> tuple[GradientFeature, ...]:
        """Return the features that are measured in it; to be extracted only after the fit."""

    @abstractmethod
    def state(self) -> State:
        """Return what was learnt, by name; empty before the fit."""

    @abstractmethod
    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what another instance's :meth:`state` returned."""
