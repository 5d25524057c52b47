"""The tensors among the arguments and results of a torch function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from fisherscope.features.gradients.weights import WeightGraph


def operands(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among an op's arguments, those in lists included."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                if not isinstance(item, int):  # strides, shapes
                    found += tensors_of(item)
    return found


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield a tensor, or the tensors of a list or tuple."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)


def distinct(tensors: list[Tensor]) -> list[Tensor]:
    """Return each tensor once."""
    return tensors if len(tensors) == 1 else list({id(tensor): tensor for tensor in tensors}.values())


def detached(values: Iterable[Any], graph: WeightGraph) -> list[Any]:
    """Return arguments with their weight-like tensors detached, those in lists included."""
    made = []
    for value in values:
        if id(value) in graph.tensors:
            made.append(value.detach())
        elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], int):
            items = detached(value, graph)
            made.append(items if isinstance(value, list) else tuple(items))
        else:
            made.append(value)
    return made
