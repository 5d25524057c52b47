"""RGB and HSV: the same images, other densities.

HSV is an invertible map of the unit cube of colours up to a set of volume 0. With M, m, n the largest, middle and least
of R, G, B and c = M - n: V = M, S = c / M, H = (k +- (m - n) / c) / 6, where k and the sign are constant for each order
of R, G, B. In the matrix of derivatives of (V, S, H) by (M, m, n) the row of V is (1, 0, 0), that of S is
(n / M^2, 0, -1 / M), and that of H has +-1 / (6 c) below m. Expanding by the row of V and the column of m gives
|det| = (1 / M) (1 / (6 c)), so for each pixel

    log |det dHSV / dRGB| = -log(6 V c) = -log(6 V^2 S).

A density p of RGB is the density p / |det| of HSV. With D numbers in an image, each measured in 256 levels,

    bits/dim in HSV - bits/dim in RGB = -(1 / D) sum over pixels of log2(6 V c):

a number of the image alone, whatever the model. It is large where images are dark or grey. Levels are discrete and
densities are not: as in dequantisation, u uniform on [0, 1) is added to each level, so that V and c are not 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fisherscope.core.errors import DataError
from fisherscope.core.keys import KeyArray
from fisherscope.features.gradients import bind_log_prob
from fisherscope.models.noise import uniform_noise

_LEVELS = 256


def dequantised(levels: Tensor, keys: KeyArray, seed: int) -> Tensor:
    """Return (x + u) / 256 in the unit cube for levels x (n, 3, H, W), float64, with the noise that Glow adds."""
    x = levels.double()
    return (x + uniform_noise(keys, tuple(x.shape[1:]), seed=seed, like=x)) / _LEVELS


def to_hsv(rgb: Tensor) -> Tensor:
    """Return hue, saturation and value in [0, 1], (n, 3, H, W), of colours in (0, 1), none of them grey."""
    largest, least = rgb.amax(1), rgb.amin(1)
    chroma = largest - least
    if not (chroma > 0).all():
        raise DataError("a colour is grey, where its hue is not defined; dequantise the levels first")
    red, green, blue = rgb.unbind(1)
    hue = torch.where(
        largest == red,
        ((green - blue) / chroma) % 6,
        torch.where(largest == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    return torch.stack([hue / 6, chroma / largest, largest], dim=1)


def to_rgb(hsv: Tensor) -> Tensor:
    """Return the colours that :func:`to_hsv` turned into hue, saturation and value."""
    hue, saturation, value = hsv.unbind(1)
    channels = []
    for shift in (5, 3, 1):
        k = (shift + 6 * hue) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def log_det(hsv: Tensor) -> Tensor:
    """Return the sum over pixels of log |det dHSV / dRGB| at colours (n, 3, H, W) in HSV, in nats, (n,)."""
    _, saturation, value = hsv.unbind(1)
    return -(6 * value.square() * saturation).log().flatten(1).sum(1)


def hsv_log_prob(log_prob: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """Return log p of images in HSV for a model of RGB levels, ``(module, hsv, seed, keys) -> (n,)`` in nats.

    The density is that of the dequantised levels in units of 1 / 256, as bits/dim count it. It maps HSV back to levels,
    asks the model, and adds the determinant, which holds no parameter.

    Args:
        log_prob: the model's own callable, or None for its method.
    """

    def of_hsv(module: nn.Module, hsv: Tensor, seed: int, keys: KeyArray) -> Tensor:
        like = next(module.parameters())
        levels = (to_rgb(hsv) * _LEVELS).floor().to(like)
        own = bind_log_prob(module, log_prob)(levels, seed, keys)
        return own - log_det(hsv).to(own)

    return of_hsv
