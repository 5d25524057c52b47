"""The naive gradient score: the squared norm of the whole gradient."""

from __future__ import annotations

import numpy as np

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.layers import layer_values
from fisherscope.detectors.updatable import Updatable


class TotalNorm(Updatable, Differentiable):
    """score = sum_l f_l; the Fisher matrix is taken to be the identity (Dauncey et al. 2024, section 4.1).

    Nothing is learnt but which layers there are (``columns_``), so that a table of another model is noticed.

    Args:
        name: how tables call it.
        block: which numbers to read: f_l, or those of another metric.
    """

    min_fit = 1

    def __init__(self, name: str = "total-norm", block: str = "grad_norm") -> None:
        self.name = name
        self.requires = (block,)

    def _fit(self, table: FeatureTable) -> None:
        return None

    def _update(self, table: FeatureTable) -> None:
        return None  # what there is to learn of new samples is the metric's

    def _score(self, table: FeatureTable) -> Scores:
        scores: Scores = layer_values(table, self.requires[0]).sum(1)
        return scores

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        block = self.requires[0]
        return {block: np.ones_like(table.block(block), dtype=np.float64)}
