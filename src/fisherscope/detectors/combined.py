"""One p-value of several detectors, valid however much they depend on each other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final

import numpy as np

from fisherscope.core.errors import SettingError
from fisherscope.core.parts import part
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.conformal import ConformalCalibration
from fisherscope.detectors.densities.base import Array

RULES: Final = ("fisher", "cauchy")
MIN_REFERENCE: Final = 10


class Combined(Detector):
    """The members' p-values p_1..p_M as one score (Fisher 1932; Cauchy combination: Liu & Xie 2020, eq. 1).

    ``fisher``: -2 sum_m log p_m. ``cauchy``: mean_m tan((1/2 - p_m) pi). Every other fit group fits the members, the
    rest gives the n reference scores of their conformal p-values. Beyond all of these p_m is at most 1 / (n + 1), and
    less the farther a group lies (:meth:`.ConformalCalibration.continued_p_value`): if such groups tied, those among
    the calibration groups could keep a guard from ever alarming. The distributions of the two statistics that the
    sources state are for independent (or, in the far tail, any) p-values and are not used: the score is calibrated on
    held-out groups like that of any detector, which takes the dependence in without a model of it.

    Args:
        members: unfitted, at least two.
        rule: ``fisher``: large where the members agree a little; ``cauchy``: large where one is sure, but a member
            that finds a group unusually ordinary (p_m near 1) outweighs it.
        name: how tables call it.
    """

    reference_: Array

    def __init__(self, members: Sequence[Detector], rule: str = "fisher", name: str = "combined") -> None:
        if len(members) < 2 or rule not in RULES:
            raise SettingError(
                f"{name} was given {len(members)} detectors and the rule '{rule}', expected two or more and one of "
                f"{', '.join(RULES)}"
            )
        self.name = name
        self.requires = tuple(dict.fromkeys(block for member in members for block in member.requires))
        self.min_fit = 2 * max(MIN_REFERENCE, *(member.min_fit for member in members))
        self._members = tuple(members)
        self._rule = rule

    def _fit(self, table: FeatureTable) -> None:
        # Every other one: both halves are alike even where the table is sorted.
        fit, reference = table.select(slice(0, None, 2)), table.select(slice(1, None, 2))
        self.reference_ = np.stack([np.sort(member.fit(fit).score(reference)) for member in self._members])
        for i, member in enumerate(self._members):
            self._take({f"member{i}_{name.removesuffix('_')}": value for name, value in member.state().items()})

    def _score(self, table: FeatureTable) -> Scores:
        p_values = np.stack([self._p_values(i, table) for i in range(len(self._members))])
        if self._rule == "fisher":
            fisher: Scores = -2 * np.log(p_values).sum(0)
            return fisher
        # tan((1/2 - p) pi), exact for small p too
        cauchy: Scores = (1 / np.tan(np.pi * p_values)).mean(0)
        return cauchy

    def _p_values(self, i: int, table: FeatureTable) -> Scores:
        scores = copy.copy(self._members[i]).restore(part(self.state(), f"member{i}_")).score(table)
        # Cauchy's are half a step less: p = 1 has an infinite tangent.
        return ConformalCalibration(self.reference_[i]).continued_p_value(scores, middle=self._rule == "cauchy")
