"""Sketches in a chosen metric: linear maps S = R s of single samples' gradients.

The quadratic form itself, d^T R^T (B (R C R^T + lambda I))^-1 R d, is the detector's (``rao-sketch@NAME``), right of
the waist, where the sketches of a group's members are summed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fisherscope.core.errors import SettingError
from fisherscope.core.parts import part
from fisherscope.core.table import SKETCH_KINDS
from fisherscope.features.gradients import Projection, Reduction, random_projection
from fisherscope.features.gradients.forms import GradientForm, matrix_view
from fisherscope.features.gradients.sketch import normal_matrix
from fisherscope.features.metrics.base import FisherMetric, State
from fisherscope.features.metrics.collectors import Several, Shapes
from fisherscope.features.metrics.factors import Factors, FactorSums, whitening
from fisherscope.features.metrics.feature import GradientFeature
from fisherscope.features.metrics.frames import CoordinateMoments
from fisherscope.features.metrics.raw import GlobalSketch, LayerSketch, SketchNorms, SketchSettings

FIT_SAMPLES: Final = 256
"""Kronecker factors of 1,000 samples and of 3,000 gave the same scores to .001; a few hundred suffice."""
DAMPING: Final = 1e-2


class Sketched(FisherMetric):
    """Factored projections that follow from one pass over a few hundred fit samples; only they are kept.

    Args:
        name: how blocks call it.
        kind: ``countsketch``: every raw entry goes into a bucket with a random sign (Charikar et al. 2002).
            ``equalised``: the random projection of each parameter tensor over the root of its mean squared size.
            ``whitened``: random rows times the inverse roots of the Kronecker factors, damped by 0.01 x their mean
            eigenvalue; vectors over the root of their damped diagonal, other tensors without factors as ``equalised``;
            a model none of whose parameters has factors is refused.
            ``whitened-inputs``: of the inputs' factor A only, the rest raw. ``whitened-outputs``: all but A.
        settings: sizes and projection seed.

    Source: docs/metrics.md.
    """

    stages = 1
    growing = ()
    max_samples = FIT_SAMPLES

    def __init__(self, name: str, kind: str, settings: SketchSettings | None = None) -> None:
        if kind not in SKETCH_KINDS:
            raise SettingError(f"the kind of sketch is '{kind}', expected one of {', '.join(SKETCH_KINDS)}")
        self.name = name
        self._kind = kind
        self._settings = settings or SketchSettings()
        self._shapes = Shapes()
        self._moments = CoordinateMoments()
        self._factors = FactorSums()
        self._projections: dict[str, Projection] = {}

    def collector(self, stage: int) -> Reduction:
        parts: list[Reduction] = [self._shapes]
        if self._kind != "countsketch":
            parts.append(self._moments)
        if self._kind.startswith("whitened"):
            parts.append(self._factors)
        return Several(parts)

    def finish(self, stage: int) -> None:
        if self._kind == "countsketch":
            self._projections = {name: Projection(None, None) for name in self._shapes.shapes}
            return
        speaking = self._moments.speaking(centred=True)
        factors = self._factors.factors(self.name) if self._kind.startswith("whitened") else {}
        for name, shape in self._shapes.shapes.items():
            base = random_projection(name, shape, self._settings.size, self._settings.projection_seed)
            found = (
                self._whitened(name, shape, base, factors.get(name)) if name in speaking else _scaled(base, shape, 0.0)
            )
            self._projections[name] = found

    def _whitened(self, name: str, shape: tuple[int, ...], base: Projection, factors: Factors | None) -> Projection:
        variance = self._moments.variance(name, centred=True).cpu()
        if factors is not None:
            rows, columns = factors.sides
            wanted = {"whitened": (True, True), "whitened-inputs": (True, False), "whitened-outputs": (False, True)}
            inputs, outputs = wanted[self._kind]
            left, right = (inputs, outputs) if factors.inputs_first else (outputs, inputs)
            return Projection(
                _through(base.left, rows) if left else base.left, _through(base.right, columns) if right else base.right
            )
        if self._kind == "whitened-inputs":
            return base
        if self._kind != "equalised" and len(shape) == 1:
            return Projection((variance[:, 0] + DAMPING * variance.mean()).rsqrt(), None)
        return _scaled(base, shape, 1 / math.sqrt(float(variance.sum())))

    def features(self) -> tuple[GradientFeature, ...]:
        return (
            GlobalSketch(self._settings, self.name, self._projections),
            LayerSketch(self._settings, self.name, self._projections),
            SketchNorms(self._settings, self.name, self._projections),
        )

    def state(self) -> State:
        arrays: State = {}
        for name, projection in self._projections.items():
            for side, matrix in (("left", projection.left), ("right", projection.right)):
                arrays[f"{side}:{name}"] = np.empty((0, 0)) if matrix is None else matrix.numpy()
        return arrays

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        left, right = part(state, "left:"), part(state, "right:")
        self._projections = {name: Projection(_matrix(left[name]), _matrix(right[name])) for name in left}


class GaussianSketch(FisherMetric):
    """A dense normal matrix of variance 1/K on all raw entries of a parameter tensor; the reference, for small models.

    Needs no fit: the matrix follows from the projection seed and the parameter's name.

    Args:
        name: how blocks call it.
        settings: sizes and projection seed.
    """

    stages = 0
    growing = ()

    def __init__(self, name: str, settings: SketchSettings | None = None) -> None:
        self.name = name
        self._settings = settings or SketchSettings()

    def collector(self, stage: int) -> Reduction:
        return Shapes()

    def finish(self, stage: int) -> None:
        return None

    def features(self) -> tuple[GradientFeature, ...]:
        return (_DenseSketch(self._settings, self.name),)

    def state(self) -> State:
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        return None


class _DenseSketch(GlobalSketch):
    def reduction(self, module: nn.Module, group_size: int) -> Reduction:
        return _DenseProjection(self._size(module), self._settings.projection_seed)


class _DenseProjection(Reduction):
    """(n, K)."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._parts: dict[str, list[Tensor]] = {}

    def update(self, name: str, form: GradientForm) -> None:
        rows = form.vectors()
        matrix = dense_projection(name, rows.shape[1], self._size, self._seed).to(rows)
        self._parts.setdefault(name, []).append(rows @ matrix.mT)

    def result(self, names: list[str]) -> Tensor:
        return torch.stack([torch.cat(self._parts[name]) for name in names]).sum(0)


def dense_projection(name: str, entries: int, size: int, seed: int) -> Tensor:
    """Return the (K, n_l) normal matrix of a parameter tensor, variance 1/K, float64; the same in every process."""
    return normal_matrix(f"{seed}/{name}/dense", (size, entries)) / math.sqrt(size)


def _through(side: Tensor | None, factor: Tensor) -> Tensor:
    white = whitening(factor, DAMPING)
    return white if side is None else side @ white


def _scaled(base: Projection, shape: tuple[int, ...], scale: float) -> Projection:
    if base.left is not None:
        return Projection(base.left * scale, base.right)
    if base.right is not None:
        return Projection(None, base.right * scale)
    rows, columns = matrix_view(shape)
    if rows <= columns:
        return Projection(torch.eye(rows, dtype=torch.float64) * scale, None)
    return Projection(None, torch.eye(columns, dtype=torch.float64) * scale)


def _matrix(array: NDArray[Any]) -> Tensor | None:
    return torch.from_numpy(array.copy()) if array.size else None
