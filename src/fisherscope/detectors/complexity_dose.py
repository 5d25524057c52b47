"""Density of states without gradients: how frequent is a likelihood for a sample of this complexity?"""

from __future__ import annotations

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.densities.components import modes_novelty, modes_slope
from fisherscope.detectors.summary import CODES, KeptSummary


class ComplexityDose(KeptSummary, Differentiable):
    """score = -log q(log p, log c, log d), q a mixture of one to four normals, c and d lengths of universal codes.

    c is that of an image's context code or of another sample's Lempel-Ziv code, d that of an image's predictive code
    (:mod:`fisherscope.features.complexity`). Input complexity (Serra et al. 2020) subtracts log p and one length and
    knows one direction; the density knows which combinations of them good samples have. Samples that lack a code are
    judged without it.
    """

    name = "complexity-dose"
    requires = ("log_p", *CODES)
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
