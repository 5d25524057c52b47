"""log p as a sum of terms: gradients of one term at a time say more than those of the sum.

At hardly any noise a diffusion model's gradient is made of edges and texture, at much noise of what the image shows;
a VAE's likelihood of pixels outweighs what the gradient says of its latents. In the gradient of their sum the largest
term hides the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from fisherscope.core.errors import ModelError
from fisherscope.core.keys import KeyArray
from fisherscope.features.gradients.logprob import LogProb
from fisherscope.models.protocols import SumOfTerms


def term_names(module: nn.Module, log_prob: LogProb | None) -> tuple[str, ...]:
    """Return the names of the terms that log p is a sum of; none where it is not known to be one of several.

    Args:
        module: the model.
        log_prob: the user's own, which need not be the sum that the module knows; None for ``module.log_prob``.

    Raises:
        ModelError: the names are no texts, or one occurs twice.
    """
    if log_prob is not None or not isinstance(module, SumOfTerms):
        return ()
    names = tuple(module.term_names)
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ModelError(f"{type(module).__name__} calls the terms of its log p {names}; give each a text of its own")
    return names if len(names) > 1 else ()


@dataclass(frozen=True)
class _Term:
    index: int

    def __call__(self, module: SumOfTerms, x: Tensor, *, seed: int, keys: KeyArray) -> Tensor:
        return module.term_log_prob(x, self.index, seed=seed, keys=keys)


@cache
def term_log_prob(index: int) -> LogProb:
    """Return the callable ``(module, x, *, seed, keys) -> (n,)`` of a term: always the same one, as plans go by it."""
    return _Term(index)


def named_by_term(names: tuple[str, ...], terms: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of columns that there are once for each term, term after term; as given where there is one."""
    return tuple(f"{name} [{term}]" for term in terms for name in names) if terms else names
