"""Squared norms, and sketches of the whole gradient or of each parameter tensor's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from fisherscope.core.errors import SettingError
from fisherscope.features.gradients import Projection, Reduction, Sketch, SketchedNorms, SquaredNorms
from fisherscope.features.metrics.feature import GradientFeature, trainable_names

SMALLEST_SKETCH: Final = 8


@dataclass(frozen=True)
class SketchSettings:
    """Size and seed of the random projections.

    Attributes:
        size: K of the global sketch; a model of fewer parameters gets as many as it has.
        layer_size: K of each layer's own sketch.
        projection_seed: seed of projections, buckets and signs, which follow from it and the parameters' names
            and shapes alone.
    """

    size: int = 512
    layer_size: int = 128
    projection_seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.size, self.layer_size) < SMALLEST_SKETCH:
            raise SettingError(
                f"the sketch sizes are {self.size} and {self.layer_size}, expected {SMALLEST_SKETCH} or more"
            )


def clipped_size(size: int, module: nn.Module) -> int:
    """Return ``size``, or the number of trainable parameters where that is smaller (but at least 8)."""
    n_parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return max(SMALLEST_SKETCH, min(size, n_parameters))


class LayerNorms(GradientFeature):
    """``grad_norm`` (N, L): f_l of every trainable parameter tensor; the identity metric (docs/metrics.md)."""

    block = "grad_norm"
    per_sample = False

    def reduction(self, module: nn.Module, group_size: int) -> Reduction:
        return SquaredNorms()

    def to_block(self, result: Any, group_size: int) -> Tensor:
        return torch.stack(list(result.values()), dim=1).double()

    def columns(self, module: nn.Module) -> tuple[str, ...] | None:
        return trainable_names(module)

    def settings(self, module: nn.Module) -> dict[str, Any] | None:
        return {"sizes": [p.numel() for p in module.parameters() if p.requires_grad]}


class _Projected(GradientFeature):
    """A feature of projected gradients.

    Args:
        settings: sizes and seed.
        metric: name of the metric that chose the projections; the block is then ``KIND:NAME``.
        projections: by parameter name, in place of the random ones.
    """

    kind: ClassVar[str]

    def __init__(
        self, settings: SketchSettings, metric: str = "", projections: Mapping[str, Projection] | None = None
    ) -> None:
        self.block = f"{self.kind}:{metric}" if metric else self.kind
        self._settings = settings
        self._projections = projections

    @abstractmethod
    def _size(self, module: nn.Module) -> int:
        """Return K, after which the ranks of random projections go."""

    def columns(self, module: nn.Module) -> tuple[str, ...] | None:
        return trainable_names(module)

    def settings(self, module: nn.Module) -> dict[str, Any] | None:
        return {"size": self._size(module), "projection_seed": self._settings.projection_seed}


class GlobalSketch(_Projected):
    """``sketch`` (N, B, K): factored random sketch of each sample's whole gradient."""

    kind = "sketch"
    per_sample = True

    def _size(self, module: nn.Module) -> int:
        return clipped_size(self._settings.size, module)

    def reduction(self, module: nn.Module, group_size: int) -> Reduction:
        return Sketch(self._size(module), projection_seed=self._settings.projection_seed, projections=self._projections)

    def to_block(self, result: Any, group_size: int) -> Tensor:
        sketch: Tensor = result
        return sketch

    def columns(self, module: nn.Module) -> tuple[str, ...] | None:
        return None


class LayerSketch(_Projected):
    """``layer_sketch`` (N, B, K, L): the sketch of every parameter tensor by itself, names on the last axis."""

    kind = "layer_sketch"
    per_sample = True

    def _size(self, module: nn.Module) -> int:
        return self._settings.layer_size

    def reduction(self, module: nn.Module, group_size: int) -> Reduction:
        return Sketch(
            self._size(module),
            projection_seed=self._settings.projection_seed,
            projections=self._projections,
            per_layer=True,
        )

    def to_block(self, result: Any, group_size: int) -> Tensor:
        return torch.stack(list(result.values()), dim=2)


class SketchNorms(_Projected):
    """``sketch_norm`` (N, L): squared norm of every parameter tensor's gradient, at a sketch's price.

    ``grad_norm`` of vectors and matrices, of kernels an unbiased estimate from random projections; with the projections
    of a metric, the norm in that metric.
    """

    kind = "sketch_norm"
    per_sample = False

    def _size(self, module: nn.Module) -> int:
        return self._settings.size

    def reduction(self, module: nn.Module, group_size: int) -> Reduction:
        return SketchedNorms(
            self._size(module), projection_seed=self._settings.projection_seed, projections=self._projections
        )

    def to_block(self, result: Any, group_size: int) -> Tensor:
        return torch.stack(list(result.values()), dim=1).double()


class TermNorms(SketchNorms):
    """``term_norm`` (N, T L): ``sketch_norm`` of each of the T terms of log p; the same where log p is one term."""

    kind = "term_norm"
    per_term = True
