"""Several processes under ``torchrun``: they train the model, and extract the table, that one process would.

Gradients are averaged by hand after the backward pass instead of wrapping the model, so that a family may train by
any of its methods. Noise belongs to samples, not to processes, so nothing else has to agree.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, distributed

from fisherscope.core.errors import SettingError


@dataclass(frozen=True)
class Workers:
    """The processes of one training or extraction.

    Attributes:
        rank: number of this process.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, in place, by their means over all processes, in one message."""
        if self.size == 1:
            return
        parts = list(tensors)
        flat = torch.cat([t.reshape(-1) for t in parts])
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(parts, torch.split(flat, [t.numel() for t in parts]), strict=True):
            tensor.copy_(mean.reshape(tensor.shape))

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        self.mean_([tensor])
        return tensor.item()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            distributed.barrier()


ALONE: Final = Workers(0, 1, torch.device("cpu"))
"""A single process."""


def is_first() -> bool:
    """Tell whether this process is the single one, or the first that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def workers(device: torch.device) -> Iterator[Workers]:
    """Join the processes that ``torchrun`` started; without it, yield the single one.

    Args:
        device: where to compute; of a CUDA device each process takes its own.

    Raises:
        SettingError: there are more processes on a machine than CUDA devices.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        yield Workers(0, 1, device)
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise SettingError(f"process {local} has no CUDA device of its own; start fewer processes per node")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # Imported later, as a first optimiser step does, its functions have the group as a default argument: its threads
    # outlive it, and one that is caught by the end of the interpreter aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(rank, size, device)
    finally:
        distributed.destroy_process_group()
