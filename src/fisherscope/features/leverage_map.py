"""Where in an image a model's layers read what good samples never show them: the leverage of a convolution's input.

The gradient of a convolution's kernel is a sum over positions p of a_p (x) delta_p, a_p the patch that the kernel
reads there. K-FAC (Grosse & Martens 2016, arXiv 1602.01407) splits the layer's Fisher information into second moments
A of the patches and G of the output gradients, so that the position's part of Rao's score is (a_p' A^-1 a_p)
(delta_p' G^-1 delta_p). The first factor, centred, is the leverage of regression: how unlike those of the reference the
patch is. It needs no gradient. The map is the mean over the convolutions of its logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fisherscope.core.errors import DataError, ModelError
from fisherscope.features.extractors import Request
from fisherscope.features.gradients import bind_log_prob
from fisherscope.features.gradients.guards import check_modes, unchanged_state
from fisherscope.features.gradients.logprob import check_log_prob

_ARGUMENTS: Final = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")

DAMPING: Final = 1e-2
"""Added to the patches' covariance, times its mean variance."""


class LeverageMap:
    """Leverage of every position of an image, against a reference.

    Args:
        reference: in-distribution samples that the model was not trained on, images (n, C, H, W).

    Raises:
        DataError: no images, or a patch that is the same everywhere.
        ModelError: log p runs through no two-dimensional convolution, or not through the same ones for every sample.
    """

    def __init__(self, reference: Iterable[Request]) -> None:
        self._layers: list[_Moments] = []
        for request in reference:
            for patches in _samples(request):
                self._layers = self._layers or [_Moments(u) for u in patches]
                self._match(patches)
                for layer, u in zip(self._layers, patches, strict=True):
                    layer.add(u)
        if not self._layers:
            raise DataError("a map of leverage compares with reference samples, and none were given")
        for layer in self._layers:
            layer.finish()

    def maps(self, request: Request) -> NDArray[np.float64]:
        """Return the map of every image, (n, H, W), nats; higher = less like the reference."""
        found = []
        for patches in _samples(request):
            self._match(patches)
            layers = [layer.leverage(u) for layer, u in zip(self._layers, patches, strict=True)]
            size = tuple(request.x.shape[2:])
            grown = [F.interpolate(v[None, None], size=size, mode="bilinear", align_corners=False) for v in layers]
            found.append(torch.cat(grown).mean((0, 1)).cpu().numpy())
        return np.stack(found)

    def _match(self, patches: list[_Patches]) -> None:
        shapes = [(u.values.shape[1:3], u.grid) for u in patches]
        if shapes != [layer.shape for layer in self._layers]:
            raise ModelError(
                "log p does not run through the same convolutions for every sample, so that their inputs cannot be "
                "compared; ask for another map (method 'contrast')"
            )


class _Patches:
    """What one convolution reads: (rows, groups, K, positions), and the grid of the positions."""

    def __init__(self, values: Tensor, grid: tuple[int, int]) -> None:
        self.values = values
        self.grid = grid


class _Moments:
    """Mean and covariance of the patches of one convolution, (groups, K) and (groups, K, K)."""

    def __init__(self, like: _Patches) -> None:
        groups, size = like.values.shape[1:3]
        self.shape = ((groups, size), like.grid)
        self._dtype = like.values.dtype
        self._count = 0
        self._sum = like.values.new_zeros(groups, size, dtype=torch.float64)
        self._squares = like.values.new_zeros(groups, size, size, dtype=torch.float64)
        self._mean = self._inverse = torch.empty(0)

    def add(self, patches: _Patches) -> None:
        u = patches.values.double().transpose(0, 1).transpose(1, 2).flatten(2)  # (groups, K, rows * positions)
        self._count += u.shape[2]
        self._sum += u.sum(2)
        self._squares += u @ u.transpose(1, 2)

    def finish(self) -> None:
        """Make mean and inverse covariance of the sums."""
        mean = self._sum / self._count
        covariance = self._squares / self._count - mean[:, :, None] * mean[:, None, :]
        variance = covariance.diagonal(dim1=1, dim2=2).mean()
        if not variance > 0:
            raise DataError("a convolution reads the same patch everywhere in the reference; give different samples")
        damped = covariance + DAMPING * variance * torch.eye(covariance.shape[1]).to(covariance)
        self._inverse = torch.linalg.inv(damped).to(self._dtype)
        self._mean = mean.to(self._dtype)

    def leverage(self, patches: _Patches) -> Tensor:
        """Return the mean over the rows of the log leverage of each position, float64, of the grid's shape."""
        u = patches.values - self._mean[None, :, :, None]
        values = (u * (self._inverse @ u)).sum((1, 2)).double()
        # a patch that is the mean itself has leverage 0 up to round-off
        return values.clamp_min(torch.finfo(self._mean.dtype).eps).log().mean(0).reshape(patches.grid)


class _Reading(TorchFunctionMode):
    """Keep what every two-dimensional convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Patches] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch function."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "conv2d":
            with torch._C.DisableTorchFunction():
                self.found.append(_patches(args, kwargs))
        return func(*args, **kwargs)


def _patches(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Patches:
    """Return what a call of ``torch.nn.functional.conv2d`` reads."""
    given = {
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        **dict(zip(_ARGUMENTS, args, strict=False)),
        **kwargs,
    }
    x, padding = given["input"], given["padding"]
    kernel, stride, dilation = given["weight"].shape[2:], _pair(given["stride"]), _pair(given["dilation"])
    if isinstance(padding, str):
        tall, wide = (d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True))
        x, padding = F.pad(x, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)), 0
    padding = _pair(padding)
    rows, columns = (
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, p, d, k, s in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    )
    patches = F.unfold(x, kernel, dilation, padding, stride)
    return _Patches(patches.reshape(len(patches), given["groups"], -1, rows * columns), (rows, columns))


def _pair(value: int | Iterable[int]) -> tuple[int, int]:
    first, *rest = [value] if isinstance(value, int) else value
    return first, rest[0] if rest else first


def _samples(request: Request) -> Iterable[list[_Patches]]:
    """Yield the patches that each sample's log p reads; a model may stack several rows for a sample."""
    if not isinstance(request.x, np.ndarray) or request.x.ndim != 4:
        raise DataError("a map of leverage needs images (n, C, H, W)")
    check_modes(request.module)
    log_prob, x = bind_log_prob(request.module, request.log_prob), request.tensors()
    for row in range(len(request.keys)):
        with torch.no_grad(), unchanged_state(request.module), _Reading() as reading:
            value = log_prob(x[row : row + 1], request.seed, request.keys[row : row + 1])
        check_log_prob(value, 1, row)
        if not reading.found:
            raise ModelError(
                f"log p of {type(request.module).__name__} runs through no two-dimensional convolution; ask for "
                "another map (method 'contrast')"
            )
        yield reading.found
