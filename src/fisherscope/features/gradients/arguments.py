"""The tensors among the arguments and results of a torch function.

These are asked of every op of a pass, and what Python does there adds up: they are written to be fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor


def operands(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among an op's arguments, those in lists included."""
    return tensors_of((*args, *kwargs.values()) if kwargs else args)


def tensors_of(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among some values, those in lists included."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            for item in value:  # most are sizes and strides, too short to be worth a call
                if isinstance(item, Tensor):
                    found.append(item)
                elif isinstance(item, (list, tuple)):
                    found += tensors_of(item)
    return found


def distinct(tensors: list[Tensor]) -> list[Tensor]:
    """Return each tensor once."""
    return tensors if len(tensors) == 1 else list({id(tensor): tensor for tensor in tensors}.values())


def detached(values: Iterable[Any], known: Mapping[int, Tensor]) -> list[Any]:
    """Return arguments with their weight-like tensors detached, those in lists included.

    Args:
        values: the arguments.
        known: the weight-like tensors by id.
    """
    made = []
    for value in values:
        if id(value) in known:
            made.append(value.detach())
        elif isinstance(value, (list, tuple)) and value and type(value[0]) is not int:
            items = detached(value, known)
            made.append(items if isinstance(value, list) else tuple(items))
        else:
            made.append(value)
    return made
