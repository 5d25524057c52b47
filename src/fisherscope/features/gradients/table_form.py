"""Gradients of tables read by row, tied to an output layer or not; and sums of forms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fisherscope.features.gradients.forms import DenseForm, GradientForm, KroneckerFactors, OuterForm, row_inner


class RowsForm(GradientForm):
    """Gradients of some rows of a table: embeddings and lookups.

    Args:
        index: (M, T), the row that each position read.
        gradients: (M, T, D), what arrived there.
        shape: (V, ...) with D the product of the rest.
    """

    def __init__(self, index: Tensor, gradients: Tensor, shape: Sequence[int]) -> None:
        self.index = index
        self.gradients = gradients
        self._shape = torch.Size(shape)

    @property
    def shape(self) -> torch.Size:
        return self._shape

    @property
    def n_groups(self) -> int:
        return len(self.index)

    @property
    def sample(self) -> Tensor:
        return self.gradients

    @property
    def nbytes(self) -> int:
        return self.gradients.numel() * self.gradients.element_size() + self.index.numel() * 8

    def dense(self) -> Tensor:
        m, t, d = self.gradients.shape
        table = self.gradients.new_zeros(m, self._shape[0], d)
        table.scatter_add_(1, self.index[..., None].expand(m, t, d), self.gradients)
        return table.reshape(m, *self._shape)

    def squared_norm(self) -> Tensor:
        same = self.index[:, :, None] == self.index[:, None, :]
        products = torch.bmm(self.gradients, self.gradients.mT)
        return row_inner(products, same.to(products.dtype))

    def inner_outer(self, other: OuterForm) -> Tensor:
        """Return the inner product with an outer form of the same table (a tied output layer), (M,)."""
        m, t = self.index.shape
        picked = other.rows.gather(2, self.index[:, None, :].expand(m, other.rows.shape[1], t))
        return row_inner(picked, torch.bmm(other.columns, self.gradients.mT))

    def project(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        columns = self.gradients if right is None else torch.matmul(self.gradients, right.mT)
        if left is None:
            return RowsForm(self.index, columns, (self._shape[0], columns.shape[2])).dense()
        return torch.bmm(left.mT[self.index].mT, columns)

    def kronecker(self) -> KroneckerFactors | None:
        return None


class TiedForm(GradientForm):
    """A table that is read by row and multiplied by: an embedding tied to the output layer."""

    def __init__(self, rows: RowsForm, outer: OuterForm) -> None:
        self.rows = rows
        self.outer = outer

    @property
    def shape(self) -> torch.Size:
        return self.outer.shape

    @property
    def n_groups(self) -> int:
        return self.outer.n_groups

    @property
    def sample(self) -> Tensor:
        return self.outer.rows

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.outer.nbytes

    def dense(self) -> Tensor:
        return self.rows.dense() + self.outer.dense()

    def squared_norm(self) -> Tensor:
        cross = self.rows.inner_outer(self.outer)
        return (self.rows.squared_norm() + self.outer.squared_norm() + 2 * cross).clamp_min(0)

    def project(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        return self.rows.project(left, right) + self.outer.project(left, right)

    def kronecker(self) -> KroneckerFactors | None:
        return None


def add_forms(first: GradientForm, second: GradientForm) -> GradientForm:
    """Return the sum of the gradients of two uses of one parameter, in the form that takes less memory."""
    joined: GradientForm | None = None
    match first, second:
        case (OuterForm(), OuterForm()) if first.inputs_first == second.inputs_first:
            rows, columns = torch.cat([first.rows, second.rows], 1), torch.cat([first.columns, second.columns], 1)
            joined = OuterForm(rows, columns, first.shape, inputs_first=first.inputs_first)
        case (RowsForm(), RowsForm()):
            index, gradients = (
                torch.cat([first.index, second.index], 1),
                torch.cat([first.gradients, second.gradients], 1),
            )
            joined = RowsForm(index, gradients, first.shape)
        case (RowsForm(), OuterForm()) if not second.inputs_first:
            joined = TiedForm(first, second)
        case (OuterForm(), RowsForm()) if not first.inputs_first:
            joined = TiedForm(second, first)
        case _:
            pass
    if joined is not None and joined.nbytes <= 4 * joined.n_groups * joined.shape.numel():
        return joined
    return DenseForm(first.dense() + second.dense())
