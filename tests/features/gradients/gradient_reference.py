"""The comparison that every exactness test makes: batched against the plain loop, all tensors, float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fisherscope.features.gradients import gradient_norms, rules_report


def assert_close_norms(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """Relative error of every entry, structural zeros against the model's whole gradient."""
    assert list(found) == list(expected)
    total = torch.stack([v.double() for v in expected.values()]).sum(0)
    for name, value in expected.items():
        error = (found[name].double() - value.double()).abs()
        bound = tolerance * value.double() + (1e-13 if value.dtype is torch.float64 else 1e-7) ** 2 * total
        assert (error <= bound).all(), f"{name}: {found[name].tolist()} instead of {value.tolist()}"


def assert_equals_loop(
    module: nn.Module,
    x: Any,
    log_prob: Callable[..., Tensor],
    group_sizes: Sequence[int] = (1, 2),
    *,
    looped: Sequence[str] = (),
    generic: Sequence[str] = (),
) -> None:
    """Compare, and check that the fast path served everything but what is named.

    Args:
        looped: parameters that the loop may serve; ("*",): everything.
        generic: ops that the generic rule may serve; ("*",): any.
    """
    for group_size in group_sizes:
        found = gradient_norms(module, x, log_prob=log_prob, group_size=group_size)
        expected = gradient_norms(module, x, log_prob=log_prob, group_size=group_size, method="loop")
        assert any(v.abs().sum() > 0 for v in expected.values())
        assert_close_norms(found, expected)
    report = rules_report(module, x, log_prob=log_prob)
    if "*" in looped:
        assert report.loop_all
        return
    assert report.loop_all is None, str(report)
    assert {r.parameter for r in report.rows if r.rules[0].startswith("loop")} == set(looped), str(report)
    if "*" not in generic:
        slow = {rule for r in report.rows for rule in r.rules if rule.startswith("generic")}
        assert slow == {f"generic[{op}]" for op in generic}, str(report)


class Model(nn.Module):
    """Some layers and the function that uses them: ``Model(run, conv=nn.Conv2d(...))``."""

    def __init__(self, run: Callable[..., Tensor], **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run
        self.double().eval()

    def forward(self, x: Any) -> Tensor:
        """Return the log p of x: minus the energy of what ``run`` returns."""
        y = self.run(self, x)
        return y if y.dim() == 1 else energy(y)


def energy(y: Tensor) -> Tensor:
    """(n, ...) -> (n,), different weight on every entry."""
    flat = y.flatten(1)
    weights = torch.linspace(0.5, 1.5, flat.shape[1], dtype=flat.dtype)
    return (torch.sin(flat) * weights + 0.1 * flat.square()).sum(1)


def call(module: nn.Module, x: Any) -> Tensor:
    """The log-prob callable of a :class:`Model`."""
    return module(x)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameter(*shape: int, seed: int = 1) -> nn.Parameter:
    """A parameter of standard normal numbers."""
    return nn.Parameter(normal(*shape, seed=seed))
