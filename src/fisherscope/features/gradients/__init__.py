"""Exact per-sample gradients of log p with respect to every parameter, at the price of one backward pass."""

from fisherscope.features.gradients.api import PassResult, gradient_norms, gradient_pass
from fisherscope.features.gradients.logprob import bind_log_prob, pytree_keys
from fisherscope.features.gradients.reductions import (
    GramBlocks,
    GroupGradients,
    Kronecker,
    Reduction,
    SquaredNorms,
    SquareSums,
)

__all__ = [
    "GramBlocks",
    "GroupGradients",
    "Kronecker",
    "PassResult",
    "Reduction",
    "SquareSums",
    "SquaredNorms",
    "bind_log_prob",
    "gradient_norms",
    "gradient_pass",
    "pytree_keys",
]
