"""log p alone, by forward passes that are guarded as gradients are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from fisherscope.core.keys import KeyArray
from fisherscope.features.gradients.batch import make_batch
from fisherscope.features.gradients.guards import check_modes, check_singly, unchanged_state, without_autocast
from fisherscope.features.gradients.logprob import LogProb, bind_log_prob, check_log_prob

_PROBED: Final = 3


class ForwardPass:
    """log p of one model's batches.

    The first batch is checked: on up to three of its samples log p is computed together, again, and one by one.
    """

    def __init__(self) -> None:
        self._checked = False

    @torch.no_grad()
    def log_p(self, module: nn.Module, log_prob: LogProb | None, x: Any, seed: int, keys: KeyArray) -> Tensor:
        """Return log p of samples in nats, (n,).

        Args:
            module: the model.
            log_prob: see :func:`~fisherscope.features.gradients.bind_log_prob`.
            x: samples, a pytree of tensors with the batch first.
            seed: of the model's noise.
            keys: of the samples, (n,).

        Raises:
            ModelError: log p is not one finite number a sample, is random or depends on other samples, or the model is
                in train mode or changes its state.
        """
        check_modes(module)
        bound = bind_log_prob(module, log_prob)
        with without_autocast(module):
            if self._checked:
                return check_log_prob(bound(x, seed, keys), len(keys))
            few = make_batch(x, keys, 1).rows(range(min(_PROBED, len(keys))))
            few = replace(few, leaves=tuple(leaf.clone() for leaf in few.leaves))  # the model may change its input
            with unchanged_state(module):
                found = check_log_prob(bound(x, seed, keys), len(keys))
                check_singly(bound, few, seed)
        self._checked = True
        return found
