"""Exact per-sample gradients of log p with respect to every parameter, at the price of one backward pass."""

from fisherscope.features.gradients.api import PassResult, gradient_norms, gradient_pass, gradient_sketch, rules_report
from fisherscope.features.gradients.logprob import bind_log_prob, pytree_keys
from fisherscope.features.gradients.reductions import (
    GradientEntries,
    GramBlocks,
    GroupGradients,
    Kronecker,
    Reduction,
    SquaredNorms,
    SquareSums,
)
from fisherscope.features.gradients.report import RulesReport
from fisherscope.features.gradients.sketch import Projection, Sketch, SketchedNorms, random_projection

__all__ = [
    "GradientEntries",
    "GramBlocks",
    "GroupGradients",
    "Kronecker",
    "PassResult",
    "Projection",
    "Reduction",
    "RulesReport",
    "Sketch",
    "SketchedNorms",
    "SquareSums",
    "SquaredNorms",
    "bind_log_prob",
    "gradient_norms",
    "gradient_pass",
    "gradient_sketch",
    "pytree_keys",
    "random_projection",
    "rules_report",
]
