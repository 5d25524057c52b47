"""Density of states without gradients: how frequent is a likelihood for a sample of this complexity?"""

from __future__ import annotations

from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.summary import CODES, KeptSummary


class ComplexityDose(KeptSummary, Differentiable):
    """score = -log r(a) + s(a), a = (log p, log c, log d), r a mixture of normals, c and d lengths of universal codes.

    c is that of an image's context code or of another sample's Lempel-Ziv code, d that of an image's predictive code
    (:mod:`fisherscope.features.complexity`). Input complexity (Serra et al. 2020) subtracts log p and one length and
    knows one direction, as s does; the density knows which combinations of them good samples have
    (:class:`~fisherscope.detectors.summary.KeptSummary`). Samples that lack a code are judged without it.

    Args:
        shortfall: whether to count s.
    """

    name = "complexity-dose"
    requires = ("log_p", *CODES)
    min_fit = 20

    def __init__(self, *, shortfall: bool = True) -> None:
        self._shortfall = shortfall

    def _fit(self, table: FeatureTable) -> None:
        if not self._keep_summary(table, shortfall=self._shortfall):
            raise DataError(
                "all fit samples have the same log p and complexity; complexity-dose needs samples that differ"
            )

    def _score(self, table: FeatureTable) -> Scores:
        return self._summary_novelty(self.summary(table))

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        return {"log_p": self._log_p_slope(self._summary_slope(self.summary(table)), table)}
