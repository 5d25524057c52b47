"""Per-group gradients of one parameter tensor, kept in the cheapest form that still answers every question.

A weight gradient is a sum over positions of outer products, ``sum_t g_t a_t^T``. Its squared norm, its random
projection and its Kronecker factors all follow from (a, g) without the sum itself, which is the expensive part of
an ordinary backward pass. Rules make forms, reductions consume them. M is the number of groups everywhere; the
matrix view of a parameter is (shape[0], the rest).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True)
class KroneckerFactors:
    """Sums behind the Kronecker factors of one matrix-shaped parameter (docs/metrics.md).

    Attributes:
        inputs: sum over groups and positions of a a^T.
        outputs: sum over groups and positions of g g^T.
        positions: number of terms in ``inputs``.
        groups: number of groups.
        inputs_first: whether the inputs run along the parameter's first axis (``x @ w``, transposed convolutions)
            and the output gradients along the rest, or the other way round (``linear``, convolutions).
    """

    inputs: Tensor
    outputs: Tensor
    positions: int
    groups: int
    inputs_first: bool


class GradientForm(ABC):
    """Gradient of each group's summed log p with respect to one parameter tensor."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Shape of the parameter."""

    @property
    @abstractmethod
    def n_groups(self) -> int:
        """M."""

    @property
    @abstractmethod
    def sample(self) -> Tensor:
        """A tensor of the gradients' dtype and device."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the form keeps alive."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the gradients themselves, (M, *shape)."""

    def vectors(self) -> Tensor:
        """Return the gradients flattened, (M, n_l); complex ones as real and imaginary parts, (M, 2 n_l)."""
        dense = self.dense()
        flat = dense.reshape(dense.shape[0], -1)
        return torch.view_as_real(flat).flatten(1) if flat.is_complex() else flat

    @abstractmethod
    def squared_norm(self) -> Tensor:
        """Return the squared L2 norm of each, (M,)."""

    @abstractmethod
    def project(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        """Return ``left @ G @ right.T`` of the matrix view G (R, C), shape (M, q, p).

        Args:
            left: (q, R), or None for the identity.
            right: (p, C), or None for the identity.
        """

    @abstractmethod
    def kronecker(self) -> KroneckerFactors | None:
        """Return the sums behind the Kronecker factors, or None where the gradient has no such structure."""


class DenseForm(GradientForm):
    """Gradients as they are, (M, *shape)."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients

    @property
    def shape(self) -> torch.Size:
        return self.gradients.shape[1:]

    @property
    def n_groups(self) -> int:
        return self.gradients.shape[0]

    @property
    def sample(self) -> Tensor:
        return self.gradients

    @property
    def nbytes(self) -> int:
        return self.gradients.numel() * self.gradients.element_size()

    def dense(self) -> Tensor:
        return self.gradients

    def squared_norm(self) -> Tensor:
        return row_squares(self.gradients)

    def project(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        matrix = self.gradients.reshape(self.n_groups, *matrix_view(self.shape))
        if left is not None:
            matrix = left_product(left, matrix)
        return matrix if right is None else torch.matmul(matrix, right.mT)

    def kronecker(self) -> KroneckerFactors | None:
        return None


class ZeroForm(DenseForm):
    """Gradients of a parameter that does not touch log p: zeros, never written out.

    Args:
        parameter: of which they are.
        n_groups: M.
    """

    def __init__(self, parameter: Tensor, n_groups: int) -> None:
        super().__init__(parameter.new_zeros(()).expand(n_groups, *parameter.shape))

    @property
    def nbytes(self) -> int:
        return self.gradients.element_size()

    def squared_norm(self) -> Tensor:
        return row_squares(self.gradients.new_zeros(self.n_groups, 1))

    def project(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        rows, columns = matrix_view(self.shape)
        q, p = rows if left is None else len(left), columns if right is None else len(right)
        return self.gradients.new_zeros(self.n_groups, q, p)


class OuterForm(GradientForm):
    """``sum_t g_t a_t^T``: linear maps, 1x1 convolutions, matrix products.

    Args:
        rows: (M*S, T, R), what runs along the parameter's first axis, for S consecutive instances a group.
        columns: (M*S, T, C), what runs along the rest.
        shape: shape of the parameter, matrix view (R, C).
        n_groups: M; None: as many as there are instances.
        inputs_first: whether ``rows`` are the inputs (``x @ w``) or the output gradients (``linear``).
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        shape: Sequence[int],
        *,
        n_groups: int | None = None,
        inputs_first: bool = False,
    ) -> None:
        self.inputs_first = inputs_first
        self._rows = rows
        self._columns = columns
        self._shape = torch.Size(shape)
        self._n_groups = rows.shape[0] if n_groups is None else n_groups

    @property
    def rows(self) -> Tensor:
        """(M, S*T, R)."""
        return self._rows.reshape(self._n_groups, -1, self._rows.shape[2])

    @property
    def columns(self) -> Tensor:
        """(M, S*T, C)."""
        return self._columns.reshape(self._n_groups, -1, self._columns.shape[2])

    @property
    def shape(self) -> torch.Size:
        return self._shape

    @property
    def n_groups(self) -> int:
        return self._n_groups

    @property
    def sample(self) -> Tensor:
        return self._rows

    @property
    def nbytes(self) -> int:
        return (self._rows.numel() + self._columns.numel()) * self._rows.element_size()

    def dense(self) -> Tensor:
        return summed_instances(torch.bmm(self._rows.mT, self._columns), self._n_groups).reshape(
            self._n_groups, *self._shape
        )

    def squared_norm(self) -> Tensor:
        r, c = self._rows.shape[2], self._columns.shape[2]
        positions = self._rows.shape[1] * (self._rows.shape[0] // self._n_groups)
        if positions == 1:
            return (row_norms(self._rows) * row_norms(self._columns)).square()  # squares alone may leave the range
        if positions * (r + c) < r * c:
            return self._gram_norm()
        return row_squares(summed_instances(torch.bmm(self._rows.mT, self._columns), self._n_groups))

    def _gram_norm(self) -> Tensor:
        r, c = finely(self.rows), finely(self.columns)
        rows, columns = torch.bmm(r, r.mT), torch.bmm(c, c.mT)
        return settled_norm(
            row_inner(rows, columns),
            row_inner(rows.diagonal(dim1=1, dim2=2), columns.diagonal(dim1=1, dim2=2)),
            lambda low: row_squares(torch.bmm(r[low].mT, c[low])),
        ).to(self._rows.dtype)

    def inner(self, other: OuterForm) -> Tensor:
        """Return the inner product with another form of the same parameter, (M,), without forming either."""
        rows, columns = torch.bmm(self.rows, other.rows.mT), torch.bmm(self.columns, other.columns.mT)
        return row_inner(rows, columns)

    def project(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        rows = self._rows.mT if left is None else _applied(left, self._rows)
        if right is not None and _narrow_first(rows.shape, right.shape):
            return torch.matmul(summed_instances(torch.bmm(rows, self._columns), self._n_groups), right.mT)
        columns = self._columns.mT if right is None else _applied(right, self._columns)
        return summed_instances(torch.bmm(rows, columns.mT), self._n_groups)

    def kronecker(self) -> KroneckerFactors | None:
        rows, columns = self._rows.flatten(0, 1), self._columns.flatten(0, 1)
        inputs, outputs = (rows, columns) if self.inputs_first else (columns, rows)
        return KroneckerFactors(inputs.mT @ inputs, outputs.mT @ outputs, len(rows), self.n_groups, self.inputs_first)


def _applied(matrix: Tensor, value: Tensor) -> Tensor:
    """(q, R) on (M, T, R) -> (M, q, T), without a copy of either memory order of ``value``."""
    if value.is_contiguous():
        return torch.matmul(value, matrix.mT).mT
    return left_product(matrix, value.mT)


def _narrow_first(rows: Sequence[int], right: Sequence[int]) -> bool:
    """Whether (M, q, T) @ (M, T, C) and then the product with (p, C) multiply less than the other way round."""
    (_, q, positions), (p, columns) = rows, right
    return q * columns * (positions + p) < p * positions * (columns + q)


def left_product(matrix: Tensor, value: Tensor) -> Tensor:
    """(q, R) on (M, R, T) -> (M, q, T); ``torch.matmul`` spends more time on how to do that than on doing it."""
    return torch.bmm(matrix.expand(value.shape[0], *matrix.shape), value)


def summed_instances(products: Tensor, n_groups: int) -> Tensor:
    """(M*S, ...) -> (M, ...): adding up small products is cheaper than laying a group's positions together."""
    if products.shape[0] == n_groups:
        return products
    return products.reshape(n_groups, -1, *products.shape[1:]).sum(1)


_GRAM_TRUST: Final = {torch.float64: 1e-5}


def settled_norm(total: Tensor, size: Tensor, exactly: Callable[[Tensor], Tensor]) -> Tensor:
    """Return squared norms that were found as sums of inner products between their terms, (M,).

    Where terms cancel, the round-off of such a sum is that of the terms' own squares: then the terms are added up. Only
    on a CPU: elsewhere the question alone would halt the device at every layer, and the sums are :func:`finely` made.

    Args:
        total: the sums, (M,).
        size: of the terms' squared norms, (M,).
        exactly: returns the squared norms of some groups, given their numbers, by adding up their terms.
    """
    if total.device.type != "cpu":
        return total.clamp_min(0)
    low = (total <= _GRAM_TRUST.get(total.dtype, 1e-3) * size).nonzero().flatten()
    return total if not len(low) else total.index_put((low,), exactly(low).to(total.dtype))


def finely(value: Tensor) -> Tensor:
    """Return a float32 tensor of an accelerator in float64, any other as it is; see :func:`settled_norm`."""
    return value.double() if value.dtype is torch.float32 and value.device.type != "cpu" else value


def row_inner(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner product of each pair of rows, (M, ...) x (M, ...) -> (M,); half precision in float32."""
    a, b = first.reshape(first.shape[0], -1), second.reshape(second.shape[0], -1)
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    products: Tensor = torch.linalg.vecdot(a, b)
    return products


def matrix_view(shape: Sequence[int]) -> tuple[int, int]:
    """Return (R, C), the matrix view of a parameter's shape: (shape[0], product of the rest); scalars are (1, 1)."""
    columns = 1
    for size in shape[1:]:
        columns *= size
    return (shape[0] if shape else 1), columns


def row_norms(values: Tensor) -> Tensor:
    """Return the L2 norm of each row, (M, ...) -> (M,); half precision is summed in float32."""
    flat = values.reshape(values.shape[0], -1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return norms


def row_squares(values: Tensor) -> Tensor:
    """Return the sum of squares of each row, (M, ...) -> (M,)."""
    return row_norms(values).square()
