"""Probabilities of 8-bit levels: continuous densities integrated over each level's bin, the end bins open."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LAST_LEVEL = 255.0
_LOG_SCALES = (-7.0, 20.0)


def logistic_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return log P(x) of levels under a discretised logistic (Salimans et al. 2017, eq. 2).

    With s the logistic function, s(b) - s(a) = s(b) s(-a) (1 - e^(a - b)): no cancellation, whatever the tails.

    Args:
        x: levels 0..255, any shape.
        mean: location in levels, broadcastable with x.
        log_scale: log of the scale in levels, likewise; below -7 it counts as that (Salimans et al. bound it there
            too): one level then has all the probability that arithmetic can tell, and the logarithm of any other
            level, as of a sample that the model has never learnt, stays finite.

    Returns:
        Natural logarithms of probabilities, which sum to 1 over the 256 levels.
    """
    inverse = (-log_scale.clamp(*_LOG_SCALES)).exp()
    upper = F.logsigmoid((x + 0.5 - mean) * inverse)
    lower = F.logsigmoid((mean - x + 0.5) * inverse)
    inside = upper + lower + torch.log(-torch.expm1(-inverse))
    return torch.where(x <= 0, upper, torch.where(x >= _LAST_LEVEL, lower, inside))


def normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return log P(x) of levels under a discretised normal (Ho et al. 2020, eq. 13); arguments as above, std a scale.

    Both edges are mirrored into the lower tail, where log_ndtr keeps its precision.
    """
    upper, lower = (x + 0.5 - mean) / std, (x - 0.5 - mean) / std
    flip = mean < x
    high, low = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    # A bin far narrower than the tail's decay leaves a difference of equal logarithms: bound it away from log 0.
    gap = (log_low - log_high).clamp(max=-1e-6)
    inside = log_high + torch.log(-torch.expm1(gap))
    first = torch.special.log_ndtr(upper)
    last = torch.special.log_ndtr(-lower)
    return torch.where(x <= 0, first, torch.where(x >= _LAST_LEVEL, last, inside))


def scaled(levels: Tensor) -> Tensor:
    """Return levels 0..255 scaled to [-1, 1]."""
    return levels / 127.5 - 1


def nearest_levels(values: Tensor) -> Tensor:
    """Return the 8-bit levels nearest to values in levels, uint8 of the same shape."""
    return values.round().clamp(0, _LAST_LEVEL).to(torch.uint8)
