"""Bits/dim of the same images in RGB and in HSV, and the gradient score, which by construction does not move.

The change of variables adds to log p a term without parameters, so that the gradients are the same; computing them
anew by way of HSV checks the computation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from fisherscope.config import Strict
from fisherscope.core.table import FeatureTable
from fisherscope.detectors.layerwise_gaussian import LayerwiseGaussian
from fisherscope.evaluation import auroc
from fisherscope.features.gradients import SquaredNorms, gradient_pass
from fisherscope.pipeline.batches import Batches
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError
from fisherscope.pipeline.reproduce.cases import (
    bits_per_dim,
    case_json,
    case_stem,
    case_title,
    grid_tables,
    histogram_json,
    summary,
)
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.drawn import CHUNK, DRAWN, cached_arrays
from fisherscope.pipeline.reproduce.hsv import dequantised, hsv_log_prob, to_hsv
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.pipeline.target import LogProb, Target
from fisherscope.report.histograms import HistogramPanel, histogram_panels
from fisherscope.report.scatter import representation_figure
from fisherscope.report.text_table import TextCell

Array = NDArray[np.float64]
_DETECTOR: Final = LayerwiseGaussian.name
_CODE: Final = (*DRAWN, *(f"pipeline/reproduce/{name}.py" for name in ("hsv", "rgb_hsv")))
_ROUND_OFF: Final = 0.005
"""Most that the AUROC of the score moves by rounding in single precision, with some room."""


@dataclass(frozen=True)
class Compared:
    """One model's test images in both representations, by set, the in-distribution one first.

    Attributes:
        case: the model and its sets.
        bits: bits/dim in RGB and HSV, (n, 2).
        scores: the score of the paper from the gradients of either, (n, 2).
        log_norms_moved: largest absolute change of a log f_l.
    """

    case: Case
    bits: dict[str, Array]
    scores: dict[str, Array]
    log_norms_moved: float

    @property
    def in_dist(self) -> str:
        """Name of the in-distribution set."""
        return next(iter(self.bits))


def run(context: Context, options: Strict) -> Outcome:
    """Compare both representations under every model of colour images."""
    found = [_compare(context, case) for case in context.cases if case.out_dists and _is_colour(context, case)]
    if not found:
        raise NothingLeftError("no model of colour images has another set to compare with; HSV needs colours")
    changes = _changes(found)
    panels = [HistogramPanel("", changes, None)]
    figures = {"change": histogram_panels(panels, "change of bits per dimension, RGB to HSV")}
    captions = {
        "change": "What a change of colours from RGB to HSV adds to the bits per dimension of an image, whatever the "
        "model: minus a third of the mean over its pixels of log₂(6 V c), V the value and c the chroma of the pixel."
    }
    for one in found:
        stem = f"{case_stem(one.case)}-{one.case.in_dist}"
        figures[stem] = representation_figure(one.bits, one.scores, one.in_dist)
        captions[stem] = _caption(one.case)
    models = [_model_json(one) for one in found]
    change = {"sets": {n: summary(v) for n, v in changes.items()}, "histogram": histogram_json(changes, None)}
    tables = grid_tables(models, _cells)
    captions |= dict.fromkeys(tables, "AUROC of the likelihood for images in RGB and, after the arrow, in HSV.")
    return Outcome(
        {"change": change, "models": models}, _note(models), figures=figures, tables=tables, captions=captions
    )


def _is_colour(context: Context, case: Case) -> bool:
    shape = context.target(case).data_shape
    return shape is not None and len(shape) == 3 and shape[0] == 3


def _changes(found: Sequence[Compared]) -> dict[str, Array]:
    """Change of bits/dim of the images of every set; a set's images are those of the first model that was shown it."""
    changes: dict[str, Array] = {}
    for one in found:
        for name, bits in one.bits.items():
            changes.setdefault(name, bits[:, 1] - bits[:, 0])
    return changes


def _compare(context: Context, case: Case) -> Compared:
    target = context.target(case)
    done = context.evaluate(case, detectors=(_DETECTOR,), group_sizes=(1,), target=target)
    group = done.groups[1]
    detector = group.detectors[_DETECTOR]
    assert isinstance(detector, LayerwiseGaussian)
    tables = {done.protocol.in_dist: group.parts["test"], **group.out}
    data = [context.in_dist(case, target), *(context.batches(name, target) for name in case.out_dists)]
    log_prob = hsv_log_prob(target.log_prob)  # one for all: a callable is probed when it is new
    bits, scores, moved = {}, {}, 0.0
    for (name, table), samples in zip(tables.items(), data, strict=True):
        other = _in_hsv(context, target, log_prob, samples, table)
        bits[name] = np.stack([bits_per_dim(t, target.data_shape) for t in (table, other)], axis=1)
        scores[name] = np.stack([detector.score(t) for t in (table, other)], axis=1)
        moved = max(moved, float(np.abs(detector.log_norms(table) - detector.log_norms(other)).max()))
    return Compared(case, bits, scores, moved)


def _in_hsv(context: Context, target: Target, log_prob: LogProb, samples: Batches, table: FeatureTable) -> FeatureTable:
    """Return the table of single samples with log p and f_l computed anew from their images in HSV."""
    row = {name: i for i, name in enumerate(samples.ids)}
    samples = samples.select([row[name] for (name,) in table.ids])
    progress = context.progress(target.name)
    parts = []
    for start in range(0, len(samples), CHUNK):
        part = samples.select(range(start, min(start + CHUNK, len(samples))))
        card = {
            "in_hsv": ["grad_norm", "log_p"],
            "model": target.fingerprint(),
            "data": part.fingerprint,
            "seed": context.settings.seed,
            "dtype": target.dtype_name,
        }
        make = partial(_hsv_blocks, context, target, log_prob, part)
        parts.append(cached_arrays(context.settings.tables, card, make, _CODE))
        progress(f"{samples.name} in HSV", start + len(part), len(samples))
    blocks = {name: np.concatenate([part[name] for part in parts]) for name in ("grad_norm", "log_p")}
    return replace(table, blocks={"grad_norm": blocks["grad_norm"], "log_p": blocks["log_p"][:, None]})


def _hsv_blocks(context: Context, target: Target, log_prob: LogProb, part: Batches) -> dict[str, NDArray[Any]]:
    """Log p (n,) and f_l (n, L) by way of HSV, in float64 until the model is asked."""
    seed = context.settings.seed
    hsv = to_hsv(dequantised(torch.from_numpy(part.x), part.keys, seed)).to(target.device)
    done = gradient_pass(
        target.module,
        hsv,
        [SquaredNorms()],
        log_prob=log_prob,
        seed=seed,
        keys=part.keys,
        max_memory=context.settings.max_memory,
    )
    norms = torch.stack(list(done.results[0].values()), dim=1)
    return {"grad_norm": norms.double().cpu().numpy(), "log_p": done.log_p.double().cpu().numpy()}


def _model_json(one: Compared) -> dict[str, Any]:
    own_bits, own_scores = one.bits[one.in_dist], one.scores[one.in_dist]
    sets = {
        name: {
            "n": len(bits),
            "bits_per_dim": {"rgb": float(bits[:, 0].mean()), "hsv": float(bits[:, 1].mean())},
            "rank_correlation": float(spearmanr(bits[:, 0], bits[:, 1]).statistic),
            "points": {"bits_per_dim": bits.round(5).tolist(), "score": one.scores[name].round(4).tolist()},
        }
        for name, bits in one.bits.items()
    }
    pairs = {
        name: {
            "likelihood": [auroc(own_bits[:, i], one.bits[name][:, i]) for i in (0, 1)],
            _DETECTOR: [auroc(own_scores[:, i], one.scores[name][:, i]) for i in (0, 1)],
        }
        for name in one.bits
        if name != one.in_dist
    }
    return {**case_json(one.case), "sets": sets, "auroc": pairs, "log_norms_moved": one.log_norms_moved}


def _caption(case: Case) -> str:
    return (
        f"The same test images in RGB and in HSV under {case_title(case)}. Left: their likelihood. Right: the score of "
        "the layer-wise gradient norms, computed anew from the images in HSV; it cannot move, since the change adds "
        "to log p a term without parameters. Grey: no change."
    )


def _cells(model: Mapping[str, Any]) -> dict[str, TextCell]:
    """Return what the table says of a model, by set."""
    found = {name: pair["likelihood"] for name, pair in model["auroc"].items()}
    return {name: TextCell(f"{rgb:.3f} → {hsv:.3f}") for name, (rgb, hsv) in found.items()}


def _note(models: Sequence[dict[str, Any]]) -> str:
    """Say what the change of representation does to the likelihood, and what to the score."""
    pairs = [pair for m in models for pair in m["auroc"].values()]
    likelihood, score = (
        max(abs(pair[name][0] - pair[name][1]) for pair in pairs) for name in ("likelihood", _DETECTOR)
    )
    crossed = sum((pair["likelihood"][0] - 0.5) * (pair["likelihood"][1] - 0.5) < 0 for pair in pairs)
    norms = max(m["log_norms_moved"] for m in models)
    check = "round-off" if score <= _ROUND_OFF else "more than round-off: a fault of the computation"
    return (
        f"From RGB to HSV the AUROC of the likelihood changes by up to {likelihood:.3f}, and from one side of 0.5 to "
        f"the other on {crossed} of {len(pairs)} pairs. That of the gradient score is unchanged by construction, since "
        f"HSV adds a term without parameters to log p; computed anew, it moved by at most {score:.4f}, "
        f"which is {check}; single values of log f_l moved by at most {norms:.1e}."
    )
