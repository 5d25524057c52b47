"""Density of states of a model's own gradient: how frequent are a sample's layer profile and likelihood together?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import SettingError
from fisherscope.core.parts import part
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.base import Detector, Scores
from fisherscope.detectors.cotangent import Cotangent, Differentiable
from fisherscope.detectors.densities.base import standardise
from fisherscope.detectors.densities.components import (
    MOST_MODES,
    components,
    fit_modes,
    layer_slope,
    modes_novelty,
    modes_slope,
    principal_axes,
)
from fisherscope.detectors.layers import Array, KeptLayers
from fisherscope.detectors.profile import LayerStandardising
from fisherscope.detectors.summary import CODES, KeptSummary

COMPONENTS: Final = 10
TERM_NORMS: Final = "term_norm"
TERM_LOG_P: Final = "term_log_p"


class FisherDose(KeptLayers, Detector, Differentiable, LayerStandardising):
    """score = sum over the terms t of log p of -log q_t(u_1, ..., u_k, a) - log r_t(a), a = (log p, log c, log d).

    q_t and r_t are mixtures of normals, of one to four each by BIC. u are the first k principal components of the
    layers' log squared gradient norms (95 % of the variance, at most 10 and a tenth of the fit groups), those of
    convolution kernels estimated from random projections, which costs less than a weight gradient; log p the mean over
    the group's members, c and d the lengths of an image's context code (else of the sample's Lempel-Ziv code) and of
    its predictive code. Density of states (Morningstar et al. 2021) whose statistics are the model's own gradient; DoSE
    takes a family's latent norms and log-determinants, the paper a normal for each layer by itself. A novel sample may
    lie in the middle of every layer and of log p, and yet have a combination of them that no in-distribution sample
    has. The second mixture counts the summary a once more, which would drown among ten components.

    The log p of some models is a sum of terms whose gradients speak of different things: over a diffusion model's
    timesteps, of texture where there is little noise, of the image where there is much; in a VAE's bound, of pixels
    given latents, of where the latents are and of how sure the encoder is. In the gradient of the sum the largest term
    hides the others. So gradients and log p are those of each term by itself (a model's ``term_names``); other models
    have one.

    The code lengths are of the sample alone: they are what log p ought to follow (Serra et al. 2020), and where two
    codes disagree more or less than on good samples, the sample has another kind of structure. Samples that lack a
    code (floating numbers have none, texts no predictive one) are judged without it; the score's gradient holds them
    fixed.

    Args:
        name: how tables call it.
        block: which layers' numbers to read: squared norms of each term at a sketch's price (``term_norm``), or of the
            whole gradient, log p then being one term: f_l itself (``grad_norm``), or those of another metric.
        codes: blocks of code lengths to look at, of :data:`~fisherscope.detectors.summary.CODES`.
        most_components: largest k.
        most_modes: most normals in either mixture.

    Raises:
        SettingError: no component or no normal.
    """

    min_fit = 20

    def __init__(
        self,
        name: str = "fisher-dose",
        block: str = TERM_NORMS,
        codes: tuple[str, ...] = CODES,
        most_components: int = COMPONENTS,
        most_modes: int = MOST_MODES,
    ) -> None:
        if most_components < 1 or most_modes < 1:
            raise SettingError(
                f"{name} was given at most {most_components} components and {most_modes} normals; "
                "give at least one of each"
            )
        self.name = name
        self.requires = (block, TERM_LOG_P if block == TERM_NORMS else "log_p", *codes)
        self._of_a_term = TermDose(name, block, codes, most_components, most_modes)

    def _fit(self, table: FeatureTable) -> None:
        kept, width = list[NDArray[np.intp]](), self._width(table)
        for t, of_term in enumerate(self._terms(table)):
            learnt = copy.copy(self._of_a_term).fit(of_term)
            kept.append(learnt.kept_ + t * width)
            self._take({f"term{t}_{name.removesuffix('_')}": value for name, value in learnt.state().items()})
        self.kept_ = np.concatenate(kept)

    def _score(self, table: FeatureTable) -> Scores:
        scores: Scores = np.sum([member.score(of_term) for member, of_term in self._members(table)], axis=0)
        return scores

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        block, log_p = self.requires[:2]
        slopes = [member._cotangent(of_term) for member, of_term in self._members(table)]
        of_log_p = np.stack([slope["log_p"] for slope in slopes], axis=-1)
        return {
            block: np.concatenate([slope[block] for slope in slopes], axis=-1),
            log_p: of_log_p if log_p == TERM_LOG_P else of_log_p[..., 0],
        }

    def _standardised(self, table: FeatureTable) -> tuple[NDArray[np.intp], Array] | None:
        values = [standardise(m.log_norms(of_term), m._learnt()) for m, of_term in self._members(table)]
        return self.kept_, np.concatenate(values, axis=1)

    def n_components(self) -> tuple[int, ...]:
        """Return k of each term."""
        axes = [v for name, v in self.state().items() if name.endswith("_axes_")]
        return tuple(value.shape[1] for value in axes)

    def _members(self, table: FeatureTable) -> Iterator[tuple[TermDose, FeatureTable]]:
        """Yield the detector as it was fitted on each term, and the table of that term."""
        state = self.state()
        for t, of_term in enumerate(self._terms(table)):
            # a copy for whoever asks: several threads may
            yield copy.copy(self._of_a_term).restore(part(state, f"term{t}_")), of_term

    def _width(self, table: FeatureTable) -> int:
        """Return the number of columns of a term."""
        block, log_p = self.requires[:2]
        terms = table.block(log_p).shape[-1] if log_p == TERM_LOG_P else 1
        return int(table.block(block).shape[-1]) // terms

    def _terms(self, table: FeatureTable) -> Iterator[FeatureTable]:
        """Yield the table of each term: its own norms, and its log p as ``log_p``."""
        block, log_p = self.requires[:2]
        if log_p != TERM_LOG_P:
            yield table
            return
        width, names = self._width(table), table.columns.get(block, ())
        rest = {name: values for name, values in table.blocks.items() if name not in (block, log_p)}
        for t in range(table.block(log_p).shape[-1]):
            own = slice(t * width, (t + 1) * width)
            yield replace(
                table,
                blocks={**rest, block: table.block(block)[..., own], "log_p": table.block(log_p)[..., t]},
                columns={block: names[own]} if names else {},
            )


class TermDose(KeptLayers, KeptSummary, Differentiable):
    """The part of :class:`FisherDose` that judges one term of log p; arguments as there."""

    min_fit = 20

    mean_: Array
    std_: Array
    axes_: Array
    weights_: Array
    centres_: Array
    precisions_: Array

    def __init__(
        self,
        name: str,
        block: str,
        codes: tuple[str, ...],
        most_components: int,
        most_modes: int,
    ) -> None:
        self.name = name
        self._most_components, self._most_modes = most_components, most_modes
        self.requires = (block, "log_p", *codes)

    def _fit(self, table: FeatureTable) -> None:
        self._keep(table)
        self._keep_summary(table, self._most_modes)
        self._take(principal_axes(self.log_norms(table), self._most_components))
        self._take(fit_modes(self._points(table), self._most_modes))

    def _points(self, table: FeatureTable) -> Array:
        """Return the statistics, (N, k + 1 to 3), log p at k."""
        return np.column_stack([components(self.log_norms(table), self._learnt()), self.summary(table)])

    def _score(self, table: FeatureTable) -> Scores:
        points, learnt = self._points(table), self._learnt()
        k = learnt["axes"].shape[1]
        return modes_novelty(points, learnt) + modes_novelty(points[:, k:], self._summary_modes())

    def _cotangent(self, table: FeatureTable) -> Cotangent:
        points, learnt = self._points(table), self._learnt()
        k = learnt["axes"].shape[1]
        slope = modes_slope(points, learnt)
        log_p = slope[:, k] + modes_slope(points[:, k:], self._summary_modes())[:, 0]
        return {
            self.requires[0]: self._block_slope(layer_slope(slope[:, :k], learnt), table),
            "log_p": self._log_p_slope(log_p, table),
        }
