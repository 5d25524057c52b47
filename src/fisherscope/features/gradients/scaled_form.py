"""Gradients of a parameter that is multiplied by a constant before it meets data: masked weights, scaled ones."""

from __future__ import annotations

import torch
from torch import Tensor

from fisherscope.features.gradients.forms import DenseForm, GradientForm, KroneckerFactors, row_squares


class ScaledForm(GradientForm):
    """``c * G``, G the gradient of the product w = c * parameter and c a constant that broadcasts to its shape.

    A constant that is the same for all rows of the matrix view (the mask of a causal convolution) goes into the
    projection, so that a sketch needs no dense gradient here either.

    Args:
        form: gradient with respect to w.
        constant: c, of the parameter's number of axes.
    """

    def __init__(self, form: GradientForm, constant: Tensor) -> None:
        self.form = form
        self.constant = constant

    @property
    def shape(self) -> torch.Size:
        return self.form.shape

    @property
    def n_groups(self) -> int:
        return self.form.n_groups

    @property
    def sample(self) -> Tensor:
        return self.form.sample

    @property
    def nbytes(self) -> int:
        return self.form.nbytes

    def dense(self) -> Tensor:
        return self.form.dense() * self.constant

    def squared_norm(self) -> Tensor:
        return row_squares(self.dense())

    def project(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        if self.constant.shape[0] == 1:
            scale = self.constant.expand(1, *self.shape[1:]).reshape(-1)
            if right is None:
                return self.form.project(left, None) * scale
            return self.form.project(left, right * scale)
        return DenseForm(self.dense()).project(left, right)

    def kronecker(self) -> KroneckerFactors | None:
        return None
