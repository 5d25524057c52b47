"""Kronecker factors of linear maps and convolutions: their sums over the fit samples, and their roots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fisherscope.core.errors import ModelError
from fisherscope.core.parts import part
from fisherscope.features.gradients import Reduction
from fisherscope.features.gradients.forms import GradientForm, KroneckerFactors
from fisherscope.features.metrics.base import State
from fisherscope.features.metrics.collectors import require_finite


@dataclass(frozen=True)
class Factors:
    """The Kronecker factors of one parameter tensor, as docs/metrics.md defines them, float64.

    Attributes:
        inputs: A, the mean over samples and positions of a a^T.
        outputs: G, the mean over samples of the sum over positions of g g^T.
        inputs_first: whether A belongs to the rows of the parameter's matrix view.
    """

    inputs: Tensor
    outputs: Tensor
    inputs_first: bool

    @property
    def sides(self) -> tuple[Tensor, Tensor]:
        """The factor of the rows and the factor of the columns of the matrix view."""
        return (self.inputs, self.outputs) if self.inputs_first else (self.outputs, self.inputs)


class FactorSums(Reduction):
    """Running sums of a a^T and g g^T over single samples, for the parameters that have them."""

    needs_factors = True

    def __init__(self) -> None:
        self._sums: dict[str, KroneckerFactors] = {}
        self._seen: dict[str, int] = {}

    def update(self, name: str, form: GradientForm) -> None:
        old, new = self._sums.get(name), form.kronecker()
        seen = self._seen.get(name, 0)
        self._seen[name] = seen + form.n_groups
        if new is None:
            return
        require_finite(new.inputs, name, form, seen)
        require_finite(new.outputs, name, form, seen)
        inputs, outputs = new.inputs.double(), new.outputs.double()
        positions, groups = new.positions, new.groups
        if old is not None:
            inputs, outputs = old.inputs.to(inputs.device) + inputs, old.outputs.to(outputs.device) + outputs
            positions, groups = old.positions + positions, old.groups + groups
        self._sums[name] = KroneckerFactors(inputs, outputs, positions, groups, new.inputs_first)

    def result(self, names: list[str]) -> None:
        return None

    def factors(self, metric: str) -> dict[str, Factors]:
        """Return the factors by parameter name, on the CPU.

        Args:
            metric: name of the metric that needs them, for the message.

        Raises:
            ModelError: no parameter has factors, or one had them for some of the samples only.
        """
        if not self._sums:
            raise ModelError(
                f"'{metric}' needs the Kronecker factors of linear maps or convolutions, and none of the parameters "
                f"has them: {', '.join(sorted(self._seen))}; measure in 'diagonal', or see in rules_report whether the "
                "plain loop serves them (method='loop' always does), which gives no factors"
            )
        partly = [
            f"{n} for {s.groups} of {self._seen[n]} samples" for n, s in self._sums.items() if s.groups != self._seen[n]
        ]
        if partly:
            raise ModelError(
                f"'{metric}' got Kronecker factors of {', '.join(partly)}: the plain loop served the others, as the "
                "model computes different samples by different ops; measure in 'diagonal'"
            )
        return {
            name: Factors(s.inputs.cpu() / s.positions, s.outputs.cpu() / s.groups, s.inputs_first)
            for name, s in self._sums.items()
        }

    def state(self) -> State:
        """Return the sums as arrays."""
        arrays: State = {}
        for name, s in self._sums.items():
            arrays[f"inputs:{name}"] = s.inputs.cpu().numpy()
            arrays[f"outputs:{name}"] = s.outputs.cpu().numpy()
            arrays[f"layout:{name}"] = np.asarray([s.positions, s.groups, int(s.inputs_first)])
        return arrays

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state` returned."""
        self._sums, self._seen = {}, {}
        for name, (positions, groups, inputs_first) in part(state, "layout:").items():
            inputs, outputs = (torch.from_numpy(state[f"{k}:{name}"].copy()) for k in ("inputs", "outputs"))
            self._sums[name] = KroneckerFactors(inputs, outputs, int(positions), int(groups), bool(inputs_first))
            self._seen[name] = int(groups)


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (k,), clipped at 0, and eigenvectors as rows (k, k), of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0), vectors.mT.contiguous()


def whitening(matrix: Tensor, damping: float) -> Tensor:
    """Return the symmetric W with W W = (C + damping * mean eigenvalue * I)^-1, (k, k).

    Of all roots only this one is determined by C: the eigenvectors of a repeated eigenvalue, such as the 0 of a factor
    of low rank, are any basis of their space, and none has a sign.
    """
    values, rows = eigen(matrix)
    return rows.mT @ (rows / (values + damping * values.mean()).sqrt()[:, None])
