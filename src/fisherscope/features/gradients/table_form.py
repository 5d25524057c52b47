"""Gradients of tables read by row, tied to an output layer or not; and sums of forms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fisherscope.features.gradients.forms import (
    DenseForm,
    GradientForm,
    KroneckerFactors,
    OuterForm,
    finely,
    row_inner,
    row_squares,
    settled_norm,
)


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
        gradients = finely(self.gradients)
        products = torch.bmm(gradients, gradients.mT)
        return settled_norm(
            row_inner(products, same.to(products.dtype)),
            products.diagonal(dim1=1, dim2=2).sum(1),
            lambda low: torch.stack([self._row_by_row(m) for m in low.tolist()]),
        ).to(self.gradients.dtype)

    def _row_by_row(self, group: int) -> Tensor:
        """Return the squared norm of one group, its gradients added up row by row."""
        rows, place = torch.unique(self.index[group], return_inverse=True)
        sums = self.gradients.new_zeros(len(rows), self.gradients.shape[2])
        return row_squares(sums.index_add_(0, place, self.gradients[group]).reshape(1, -1))[0]

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
        parts = self.rows.squared_norm() + self.outer.squared_norm()
        return settled_norm(parts + 2 * cross, parts, self._dense_norm)

    def _dense_norm(self, low: Tensor) -> Tensor:
        """Return the squared norms of some groups, one table at a time: tables are large."""
        read, outer = self.rows, self.outer
        norms = []
        for m in low.tolist():
            one = RowsForm(read.index[m][None], read.gradients[m][None], self.shape).dense()[0]
            norms.append(row_squares((one + outer.rows[m].mT @ outer.columns[m]).reshape(1, -1)))
        return torch.cat(norms)

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
