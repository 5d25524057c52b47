"""Counting what a forward pass keeps for its backward pass; the basis of micro-batching."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import torch
from torch import Tensor


class MemoryMeter:
    """Count, while active, the bytes that autograd saves and those noted by :meth:`note`, each storage once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        self._keep: list[Tensor] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    @property
    def nbytes(self) -> int:
        """Bytes counted so far."""
        return sum(self._storages.values())

    def note(self, tensor: Tensor) -> None:
        """Count a tensor that is kept by other means."""
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            place = storage.data_ptr()
            if place not in self._storages:
                self._keep.append(tensor.detach())
            # a slice of the user's batch is not the batch, and an expanded tensor not its expansion
            size = min(storage.nbytes(), tensor.numel() * tensor.element_size())
            self._storages[place] = max(size, self._storages.get(place, 0))

    def _pack(self, tensor: Tensor) -> Tensor:
        self.note(tensor)
        return tensor

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        self._keep.clear()
