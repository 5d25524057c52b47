"""A detector's score summed over the terms of log p: each is judged by itself, as if it were all of log p."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.fisher_dose import FisherDose
from fisherscope.detectors.layers import Array
from fisherscope.detectors.profile import LayerStandardising
from fisherscope.detectors.summary import CODES

NORMS: Final = "term_norm"
LOG_P: Final = "term_log_p"


class ByTerm(Detector, Differentiable, LayerStandardising):
    """score = sum over the terms t of log p of a :class:`FisherDose`'s score, on the gradients and log p of t alone.

    The log p of a diffusion model is a sum over timesteps, whose gradients speak of different things: of texture where
    there is little noise, of the image where there is much. In the gradient of the sum the largest term hides the
    others; apart they cost the same. Where log p is one term this is the detector itself.

    Args:
        name: how tables call it.
        codes: blocks of code lengths to look at, see :class:`FisherDose`.
    """

    def __init__(self, name: str = "fisher-dose-by-term", codes: tuple[str, ...] = CODES) -> None:
        self.name = name
        self.requires = (NORMS, LOG_P, *codes)
        self._member = FisherDose(name, NORMS, codes)
        self.min_fit = self._member.min_fit

    def _fit(self, table: FeatureTable) -> None:
        for t, part in enumerate(_terms(table)):
            self._take({f"term{t}_{name.removesuffix('_')}": v for name, v in self._member.fit(part).state().items()})

    def _score(self, table: FeatureTable) -> Scores:
        scores: Scores = np.sum([member.score(part) for member, part in self._members(table)], axis=0)
        return scores

    def _members(self, table: FeatureTable) -> Iterator[tuple[FisherDose, FeatureTable]]:
        """Yield the detector as it was fitted on each term, and the table of that term."""
        for t, part in enumerate(_terms(table)):
            prefix = f"term{t}_"
            own = {name.removeprefix(prefix): v for name, v in self.state().items() if name.startswith(prefix)}
            yield self._member.restore(own), part

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        slopes = [member._cotangent(part) for member, part in self._members(table)]
        return {
            NORMS: np.concatenate([slope[NORMS] for slope in slopes], axis=-1),
            LOG_P: np.stack([slope["log_p"] for slope in slopes], axis=-1),
        }

    def _standardised(self, table: FeatureTable) -> tuple[NDArray[np.intp], Array] | None:
        width = table.block(NORMS).shape[-1] // table.block(LOG_P).shape[-1]
        kept, values = [], []
        for t, (member, part) in enumerate(self._members(table)):
            found = member._standardised(part)
            assert found is not None
            kept.append(found[0] + t * width)
            values.append(found[1])
        return np.concatenate(kept), np.concatenate(values, axis=1)


def _terms(table: FeatureTable) -> Iterator[FeatureTable]:
    """Yield the table of each term: its own norms, and its log p as ``log_p``."""
    log_p = table.block(LOG_P)
    count = log_p.shape[-1]
    norms, names = np.split(table.block(NORMS), count, axis=-1), table.columns.get(NORMS, ())
    for t in range(count):
        width = len(names) // count
        blocks = {name: block for name, block in table.blocks.items() if name not in (NORMS, LOG_P)}
        yield replace(
            table,
            blocks={**blocks, NORMS: norms[t], "log_p": log_p[..., t]},
            columns={NORMS: names[t * width : (t + 1) * width]} if names else {},
        )
