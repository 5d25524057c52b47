"""Statistics that a model family has beside log p, for densities of statistics (Morningstar et al. 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fisherscope.features.extractors import Blocks, Extractor, Request
from fisherscope.features.forward import ForwardPass
from fisherscope.models.protocols import HasStatistics


class Statistics(Extractor):
    """``statistics`` (N, B, S) in nats: log p, then those of a :class:`HasStatistics` model, in named columns.

    Of a model that has none the block holds log p alone, and the card says so: its list of statistics is ``["log_p"]``.
    """

    blocks = ("statistics",)

    def __init__(self) -> None:
        self._pass = ForwardPass()

    @torch.no_grad()
    def extract(self, request: Request) -> Blocks:
        x = request.tensors()
        parts = [self._pass.log_p(request.module, request.log_prob, x, request.seed, request.keys)[:, None]]
        if isinstance(request.module, HasStatistics):
            parts.append(request.module.statistics(x, seed=request.seed, keys=request.keys))
        return {"statistics": request.grouped(torch.cat(parts, dim=1).double().cpu().numpy())}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        own = module.statistic_names if isinstance(module, HasStatistics) else ()
        return {"statistics": ("log_p", *own)}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {"statistics": {"names": list(self.columns(module)["statistics"])}}
