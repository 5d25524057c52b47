"""Blocks of the Fisher information matrix of chosen layers, estimated from samples of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fisherscope.config import Strict
from fisherscope.core.errors import DataError, ModelError
from fisherscope.core.keys import fingerprint_keys, sample_keys
from fisherscope.detectors.layers import resolution
from fisherscope.features.gradients import GradientEntries, gradient_pass
from fisherscope.pipeline.reproduce.case import Case, NothingLeftError
from fisherscope.pipeline.reproduce.cases import case_json, case_stem, case_title, further_models, number_table
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.drawn import CHUNK, DRAWN, cached_arrays, model_samples
from fisherscope.pipeline.reproduce.layers import choose_layers
from fisherscope.pipeline.reproduce.outcome import Outcome
from fisherscope.pipeline.target import Target
from fisherscope.report.fim import fim_figure, fim_histogram, kinds_of_entries, magnitude_histogram
from fisherscope.report.text_table import TextTable

Matrix = NDArray[np.float64]
_CODE: Final = (*DRAWN, "pipeline/reproduce/fim.py")
Entries = Mapping[str, NDArray[np.int64]]


class Options(Strict):
    """Settings of this runner.

    Attributes:
        n_statistics: so many layers of each model, at random.
        layers: names of parameter tensors to look at instead.
        entries: entries of each layer at most, at random.
    """

    n_statistics: int = Field(default=6, ge=1)
    layers: tuple[str, ...] = ()
    entries: int = Field(default=32, ge=1)


@dataclass(frozen=True)
class Fim:
    """An estimate of some entries of the Fisher information matrix.

    F = E[s s^T] over x ~ p_theta, s the gradient of log p(x), or of the bound or term that stands for it, with respect
    to the parameters; the mean of s is 0 for an exact likelihood, so it is not subtracted.

    Attributes:
        entries: the K entries of the parameters that are looked at, by layer; those without any gradient are left out.
        matrix: F, (K, K).
        shuffled: mean of |F_ab| / sqrt(F_aa F_bb), a unlike b, after the samples of every entry were shuffled: what
            independent entries would give with so few samples.
        diagonal_noise: by layer, the decades that the ratio of its F_aa from one half of the samples to those from the
            other half spans: what a constant diagonal would seem to span with half as many samples.
    """

    entries: Entries
    matrix: Matrix
    shuffled: float
    diagonal_noise: Mapping[str, float]

    @property
    def counts(self) -> list[int]:
        """Entries of each layer."""
        return [len(index) for index in self.entries.values()]

    @property
    def normalised(self) -> Matrix:
        """F_ab / sqrt(F_aa F_bb), (K, K)."""
        return normalise(self.matrix)


def run(context: Context, options: Options) -> Outcome:
    """Estimate the matrix of every model; one that cannot be sampled from is skipped by name."""
    figures, captions, models = {}, {}, []
    for case in context.cases:
        try:
            x = model_samples(context, case, context.experiment.limit)
        except ModelError as cause:
            context.skip(f"samples of {case.model}", str(cause))
            continue
        try:
            fim = _estimate(context, case, x, options)
        except DataError as cause:
            context.skip(f"matrix of {case.name}", str(cause))
            continue
        stem = f"{case_stem(case)}-{case.in_dist}"
        figures[f"{stem}-blocks"] = fim_figure(fim.matrix, fim.normalised, fim.counts)
        figures[f"{stem}-entries"] = fim_histogram(fim.matrix, fim.counts)
        captions[f"{stem}-blocks"], captions[f"{stem}-entries"] = _captions(case, fim, len(x))
        models.append({**case_json(case), "samples": len(x), **_fim_json(fim)})
    if not models:
        raise NothingLeftError(f"no model is left: {context.skipped_text()}")
    off_page = further_models(list(figures))
    captions["models"] = _TABLE_CAPTION
    return Outcome(
        {"models": models},
        _note(models),
        figures=figures,
        tables={"models": _table(models)},
        captions=captions,
        off_page=off_page,
    )


def normalise(matrix: Matrix) -> Matrix:
    """Return F_ab / sqrt(F_aa F_bb)."""
    scale = np.sqrt(np.diag(matrix))
    normalised: Matrix = matrix / np.outer(scale, scale)
    return normalised


def _estimate(context: Context, case: Case, x: NDArray[np.uint8], options: Options) -> Fim:
    target, seed = context.target(case), context.settings.seed
    entries = _choose_entries(target, options, seed)
    gradients = np.concatenate(list(_gradients(context, target, x, entries).values()), axis=1)
    squares = np.square(gradients)
    # what is zero by symmetry (the bias of attention keys) is computed as round-off
    alive = squares.mean(0) > resolution(squares, target.dtype_name)
    if alive.sum() < 2:
        raise DataError(f"{case.model}: fewer than two of the entries of {', '.join(entries)} have a gradient")
    ends = np.cumsum([len(index) for index in entries.values()])
    kept = {n: i[a] for (n, i), a in zip(entries.items(), np.split(alive, ends[:-1]), strict=True) if a.any()}
    s = gradients[:, alive]
    shuffled = np.random.default_rng(seed).permuted(s, axis=0)
    off_diagonal = np.tri(s.shape[1], k=-1, dtype=bool)
    level = float(np.abs(normalise(shuffled.T @ shuffled / len(s)))[off_diagonal].mean())
    if len(s) < 2:
        raise DataError(f"{case.model}: {len(s)} samples, expected at least 2 for a matrix; give a larger --limit")
    layers = np.repeat(np.arange(len(kept)), [len(index) for index in kept.values()])
    order = np.random.default_rng(seed).permutation(len(s))
    halves = np.stack([np.square(s[order[i::2]]).mean(0) for i in (0, 1)])
    # of few samples a half may have no gradient at an entry that the other half reaches
    noise = {name: _ratio_span(halves[:, (layers == i) & (halves > 0).all(0)]) for i, name in enumerate(kept)}
    return Fim(kept, s.T @ s / len(s), level, noise)


def _ratio_span(halves: Matrix) -> float:
    """Return the decades that the ratios of two rows span."""
    return float(np.ptp(np.log10(halves[0] / halves[1]))) if halves.shape[1] else 0.0


def _choose_entries(target: Target, options: Options, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return numbers of entries of the flattened parameters, rising, by layer."""
    sizes = {name: p.numel() for name, p in target.module.named_parameters() if p.requires_grad}
    names = list(sizes)
    rng = np.random.default_rng(seed)
    return {
        names[i]: np.sort(rng.choice(sizes[names[i]], min(options.entries, sizes[names[i]]), replace=False))
        for i in choose_layers(names, options.layers, options.n_statistics, seed)
    }


def _gradients(context: Context, target: Target, x: NDArray[np.uint8], entries: Entries) -> dict[str, Matrix]:
    """Return the chosen entries of the gradient of every sample, (n, k) float64 by layer, from the cache where kept."""
    settings, progress = context.settings, context.progress(target.name)
    fixed = {
        "gradient_entries": {name: index.tolist() for name, index in entries.items()},
        "model": target.fingerprint(),
        "seed": settings.seed,
        "dtype": target.dtype_name,
    }
    index = {name: torch.from_numpy(rows) for name, rows in entries.items()}

    def chunk(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        reduction = GradientEntries(index)
        tensors = torch.from_numpy(images).to(device=target.device, dtype=target.dtype)
        done = gradient_pass(
            target.module,
            tensors,
            [reduction],
            log_prob=target.log_prob,
            seed=settings.seed,
            max_memory=settings.max_memory,
        )
        return {name: rows.double().cpu().numpy() for name, rows in done.results[0].items()}

    parts = []
    for start in range(0, len(x), CHUNK):
        images = x[start : start + CHUNK]
        card = {**fixed, "data": fingerprint_keys(sample_keys(images))}
        parts.append(cached_arrays(settings.tables, card, partial(chunk, images), _CODE))
        progress("gradients", start + len(images), len(x))
    return {name: np.concatenate([part[name] for part in parts]) for name in entries}


def _fim_json(fim: Fim) -> dict[str, Any]:
    kinds = kinds_of_entries(fim.counts)
    size = np.abs(fim.normalised)
    edges, shares = magnitude_histogram(fim.matrix, fim.counts)
    return {
        "entries": {name: index.tolist() for name, index in fim.entries.items()},
        "diagonal": np.diag(fim.matrix).tolist(),
        "normalised_below_diagonal": fim.normalised[np.tri(len(size), k=-1, dtype=bool)].round(4).tolist(),
        "mean_absolute": {k: float(size[e].mean()) if e.any() else None for k, e in kinds.items() if k != "diagonal"},
        "mean_absolute_shuffled": fim.shuffled,
        "diagonal_spread": {
            name: float(np.ptp(np.log10(part)))
            for name, part in zip(fim.entries, np.split(np.diag(fim.matrix), np.cumsum(fim.counts)[:-1]), strict=True)
        },
        "diagonal_noise": dict(fim.diagonal_noise),
        "histogram": {"edges": edges.tolist(), "percent": {kind: share.tolist() for kind, share in shares.items()}},
    }


def _captions(case: Case, fim: Fim, samples: int) -> tuple[str, str]:
    layers = "; ".join(f"{i} {name}" for i, name in enumerate(fim.entries, 1))
    blocks = (
        f"Fisher information matrix of {case_title(case)} from {samples} samples of the model, normalised (left) and "
        f"raw (right), at most {max(fim.counts)} random entries a layer. Layers: {layers}."
    )
    return (
        blocks,
        f"Magnitudes of the entries of the Fisher information matrix of {case_title(case)} from {samples} samples: its "
        "diagonal, pairs of one layer, pairs of two layers.",
    )


def _table(models: Sequence[dict[str, Any]]) -> TextTable:
    def mean(kind: str) -> list[str]:
        return ["-" if (v := m["mean_absolute"][kind]) is None else f"{v:.2f}" for m in models]

    columns = {
        "pairs of one layer": mean("same layer"),
        "of two layers": mean("different layers"),
        "shuffled": [f"{m['mean_absolute_shuffled']:.2f}" for m in models],
        "span of the diagonal": [f"{span:.1f}" for span in _medians(models, "diagonal_spread")],
        "noise of that": [f"{span:.1f}" for span in _medians(models, "diagonal_noise")],
    }
    return number_table(models, columns)


_TABLE_CAPTION: Final = (
    "Mean of |F_ab| / sqrt(F_aa F_bb) off the diagonal, where a diagonal matrix has what shuffled samples give; and "
    "the decades that the diagonal spans in the median layer: were one number a layer enough, as the paper's "
    "approximation has it, it would span what two halves of the samples differ by (noise; of half as many "
    "samples, hence too wide)."
)


def _medians(models: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return the median over the layers of a number of each, by model."""
    return [float(np.median(list(m[name].values()))) for m in models]


def _note(models: Sequence[dict[str, Any]]) -> str:
    """Say how far the matrices are from diagonal ones, and their diagonals from a constant in each layer."""
    gaps = [v - m["mean_absolute_shuffled"] for m in models for v in m["mean_absolute"].values() if v is not None]
    spans, noise = _medians(models, "diagonal_spread"), _medians(models, "diagonal_noise")
    wider = sum(s > n for s, n in zip(spans, noise, strict=True))
    return (
        f"Off the diagonal the normalised entries are in the mean {min(gaps, default=0.0):+.2f} to "
        f"{max(gaps, default=0.0):+.2f} larger than those of shuffled samples. The diagonal of "
        f"the median layer spans {min(spans):.1f} to {max(spans):.1f} decades, more than its noise for {wider} of "
        f"{len(models)} models."
    )
