"""Opening functions of torch that are written in Python.

Under a function mode such a function arrives as one opaque op (all of multi-head attention, say). A twin whose
``has_torch_function`` checks answer no runs the same code, and each op inside arrives by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@cache
def opened(func: FunctionType) -> Callable[..., Any]:
    """Return the twin of a Python function."""
    scope = {**func.__globals__, **dict.fromkeys(CHECKS, _no)}
    twin = FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    twin.__kwdefaults__ = func.__kwdefaults__
    return twin


def is_composite(func: Callable[..., Any]) -> bool:
    """Whether a torch function is one of ``torch.nn.functional`` made of other torch functions."""
    if not isinstance(func, FunctionType) or func.__module__ != "torch.nn.functional":
        return False
    return not set(CHECKS).isdisjoint(func.__code__.co_names)


def _no(*_: object) -> bool:
    return False
