"""Blocks that need further models beside the one that is judged: an ensemble, or one of the background alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from torch import nn

from fisherscope.core.errors import ModelError
from fisherscope.features.extractors import Blocks, Extractor, Request, forward_log_p
from fisherscope.features.forward import ForwardPass
from fisherscope.features.gradients.logprob import LogProb
from fisherscope.models.base import model_fingerprint

BACKGROUND: Final = "background"


@dataclass(frozen=True)
class Companion:
    """A further model. The one named ``background`` is the likelihood ratio's, all others form the ensemble.

    Attributes:
        name: what the user calls it.
        module: the model.
        log_prob: callable ``(module, x) -> (n,)``, or None for ``module.log_prob``.
    """

    name: str
    module: nn.Module
    log_prob: LogProb | None = None

    def fingerprint(self) -> str:
        """Return the fingerprint of the module's parameters and buffers; the card names it."""
        return model_fingerprint(self.module)


class EnsembleLogProbability(Extractor):
    """``ensemble_log_p`` (N, B, members) in nats: the model itself, then every companion but the background."""

    blocks = ("ensemble_log_p",)

    def __init__(self, companions: Sequence[Companion]) -> None:
        self._members = [c for c in companions if c.name != BACKGROUND]
        self._passes = [ForwardPass() for _ in range(1 + len(self._members))]
        if not self._members:
            raise ModelError(
                "an ensemble needs at least one further model, none was given; train the model again from other "
                "seeds and pass them as companions (--companion NAME=MODEL, any name but 'background')"
            )

    def extract(self, request: Request) -> Blocks:
        requests = (request, *(_asked_of(member, request) for member in self._members))
        columns = [forward_log_p(*asked) for asked in zip(self._passes, requests, strict=True)]
        return {"ensemble_log_p": np.stack(columns, axis=-1)}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {"ensemble_log_p": ("model", *(member.name for member in self._members))}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {"ensemble_log_p": {member.name: member.fingerprint() for member in self._members}}


class BackgroundLogProbability(Extractor):
    """``background_log_p`` (N, B) in nats: log p under the companion named ``background``."""

    blocks = ("background_log_p",)

    def __init__(self, companions: Sequence[Companion]) -> None:
        found = [c for c in companions if c.name == BACKGROUND]
        if not found:
            raise ModelError(
                "the likelihood ratio needs a background model, none was given; train one on perturbed samples "
                "(fisherscope train --perturb 0.2) and pass it as a companion (--companion background=MODEL)"
            )
        self._background, self._pass = found[0], ForwardPass()

    def extract(self, request: Request) -> Blocks:
        return {"background_log_p": forward_log_p(self._pass, _asked_of(self._background, request))}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {"background_log_p": {BACKGROUND: self._background.fingerprint()}}


def _asked_of(companion: Companion, request: Request) -> Request:
    return replace(request, module=companion.module, log_prob=companion.log_prob)
