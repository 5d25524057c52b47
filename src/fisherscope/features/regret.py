"""The block of likelihood regret, for VAEs."""

from __future__ import annotations

from typing import Any

from torch import nn

from fisherscope.core.errors import ModelError
from fisherscope.features.extractors import Blocks, Extractor, Request
from fisherscope.models.regret import DRAWS, LEARNING_RATE, STEP_DRAWS, STEPS, likelihood_regret
from fisherscope.models.vae import VAE


class Regret(Extractor):
    """``regret`` (N, B) in nats, see :func:`~fisherscope.models.regret.likelihood_regret`."""

    blocks = ("regret",)

    def extract(self, request: Request) -> Blocks:
        vae = request.module
        if not isinstance(vae, VAE):
            raise ModelError(
                f"{type(vae).__name__} is no VAE, and likelihood regret is defined for a VAE's posterior; "
                "use a detector that works with every model, such as likelihood or typicality"
            )
        regret = likelihood_regret(vae, request.tensors(), seed=request.seed, keys=request.keys)
        return {"regret": request.grouped(regret.double().cpu().numpy())}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        steps = {"steps": STEPS, "step_draws": STEP_DRAWS, "learning_rate": LEARNING_RATE}
        return {"regret": {**steps, "draws": DRAWS}}
