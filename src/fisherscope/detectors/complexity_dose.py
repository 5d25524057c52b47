"""Density of states without gradients: how frequent is a likelihood for a sample of this complexity?"""

from __future__ import annotations

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.densities.components import modes_novelty, modes_slope
from fisherscope.detectors.summary import KeptSummary


class ComplexityDose(KeptSummary, Differentiable):
    """score = -log q(log p, log c), q a mixture of one to four normals, c the length of the sample's Lempel-Ziv code.

    Input complexity (Serra et al. 2020) subtracts the two and knows one direction; the density knows which pairs of
    them good samples have. Samples that have no code (floating numbers) are judged by log p alone.
    """

    name = "complexity-dose"
    requires = ("log_p", "code_length")
    min_fit = 20

    def _fit(self, table: FeatureTable) -> None:
        if not self._keep_summary(table):
            raise DataError(
                "all fit samples have the same log p and complexity; complexity-dose needs samples that differ"
            )

    def _score(self, table: FeatureTable) -> Scores:
        return modes_novelty(self.summary(table), self._summary_modes())

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        slope = modes_slope(self.summary(table), self._summary_modes())
        return {"log_p": self._log_p_slope(slope[:, 0], table)}
