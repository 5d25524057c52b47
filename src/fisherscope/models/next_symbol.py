"""Windows of symbols, each predicted from those before it: what causal language models have in common."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.noise import uniform_noise


class NextSymbolModel(GenerativeModel):
    """A model of windows (n, T) of V symbols, log P(x) = sum_t log P(x_t | x_<t).

    Attributes:
        start: the symbol before the first one.
    """

    start: int

    @abstractmethod
    def logits(self, before: Tensor) -> Tensor:
        """Return logits of the symbol after each of ``before`` (n, t), int64, the first ``start``: (n, t, V)."""

    def conditionals(self, x: Tensor) -> Tensor:
        """Return log P of each symbol given those before it, in nats, shape (n, T)."""
        self.check_shape(x)
        symbols = x.to(next(self.parameters()).device).long()
        before = F.pad(symbols[:, :-1], (1, 0), value=self.start)
        log_p = F.log_softmax(self.logits(before), dim=2)
        return log_p.gather(2, symbols[:, :, None])[:, :, 0]

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return log P of windows x (n, T) in nats, (n,), exact; seed and keys do nothing."""
        return self.conditionals(x).sum(1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n windows, int64 (n, T), symbol by symbol."""
        like = torch.empty(0, dtype=torch.float64, device=next(self.parameters()).device)
        u = uniform_noise(np.arange(n, dtype=np.uint64), self.data_shape, seed=seed, like=like)
        symbols = torch.full((n, 1), self.start, device=like.device)
        for i in range(self.data_shape[0]):
            cumulative = F.softmax(self.logits(symbols)[:, -1].double(), dim=1).cumsum(1)
            drawn = (cumulative < u[:, i : i + 1] * cumulative[:, -1:]).sum(1, keepdim=True)
            symbols = torch.cat([symbols, drawn], dim=1)
        return symbols[:, 1:]
