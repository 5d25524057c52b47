"""Draw docs/images/idea.png: why likelihood fails and what the gradient sees, on a model that is known exactly.

Command: python benchmarks/idea_picture.py
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from fisherscope.core.store import write_atomic
from fisherscope.evaluation import Record
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.pipeline.extraction import extract_table
from fisherscope.pipeline.target import Target
from fisherscope.report.figures import figure_bytes
from fisherscope.report.theme import detector_styles, set_styles, theme

PICTURE: Final = Path(__file__).parents[1] / "docs" / "images" / "idea.png"
DIMENSIONS: Final = 128
SAMPLES: Final = 1000
OWN: Final = "what it learnt"
SETS: Final = {OWN: (1.0, 1.0), "smoother": (0.85, 0.85), "noisier": (1.15, 1.15), "one of each": (0.8, 1.17)}
"""Standard deviations of the first and the second half; the model's own are 1."""
DETECTORS: Final = ("likelihood", "layerwise-gaussian")


class Normal(nn.Module):
    """Independent normals whose first and second half have a scale each: every gradient can be checked by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(DIMENSIONS))
        self.log_first = nn.Parameter(torch.zeros(1))
        self.log_second = nn.Parameter(torch.zeros(1))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p of rows (n, D) in nats, shape (n,)."""
        log_scales = torch.cat([s.expand(DIMENSIONS // 2) for s in (self.log_first, self.log_second)])
        z = (x - self.mean) * torch.exp(-log_scales)
        return -0.5 * z.square().sum(1) - log_scales.sum() - 0.5 * DIMENSIONS * math.log(2 * math.pi)


def main() -> None:
    """Draw samples, score them and write the picture."""
    target = Target(Normal().double(), None, "normal")
    sets = samples(target)
    own, *others = sets.values()
    settings = EvaluationSettings(detectors=DETECTORS)
    records = evaluate(target, own, others, settings).records
    tables = {name: extract_table(target, data, ("grad_norm", "log_p")) for name, data in sets.items()}
    with theme():
        figure = Figure(figsize=(9.2, 2.9), layout="constrained")
        likelihood, layers, areas = figure.subplots(1, 3, width_ratios=(1.1, 1.1, 0.9))
        draw_likelihoods(likelihood, {name: table.block("log_p").ravel() for name, table in tables.items()})
        draw_layers(layers, {name: np.log(tables[name].block("grad_norm")[:, 1:]) for name in tables})
        draw_areas(areas, records)
    write_atomic(PICTURE, figure_bytes(figure, "png"))


def samples(target: Target) -> dict[str, Batches]:
    """Return samples of every set; of the model's own four times as many, since only a quarter is tested."""
    rng, made = np.random.default_rng(0), {}
    for name, deviations in SETS.items():
        count = SAMPLES * (4 if name == OWN else 1)
        x = np.repeat(deviations, DIMENSIONS // 2) * rng.standard_normal((count, DIMENSIONS))
        made[name] = replace(as_batches(x, target), name=name)
    return made


def draw_likelihoods(axes: Axes, values: dict[str, np.ndarray]) -> None:
    """Draw how likely the model finds each set."""
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=40)
    for name, style in set_styles(tuple(values)).items():
        share = 100 * np.histogram(values[name], edges)[0] / len(values[name])
        axes.stairs(share, edges, color=style.color, linestyle=style.dash, linewidth=1.6, label=name)
        if name == OWN:
            axes.stairs(share, edges, fill=True, color=style.color, alpha=0.3)
    axes.set(xlabel="log p (nats, more likely →)", ylabel="% of set per bin")
    axes.legend(loc="upper left", fontsize=7)


def draw_layers(axes: Axes, values: dict[str, np.ndarray]) -> None:
    """Draw the two layers' log f_l against each other."""
    styles = set_styles(tuple(values))
    # the set that likelihood cannot tell from the model's own, on top of that
    for name, marker in ((OWN, "o"), ("one of each", "s")):
        axes.plot(*values[name][:400].T, marker, color=styles[name].color, markersize=2.5, alpha=0.7, linestyle="")
    axes.set(xlabel="layer of one scale, log f$_1$ (nats)", ylabel="layer of the other, log f$_2$ (nats)")
    axes.set(xlim=(-4, None), ylim=(-4, None))


def draw_areas(axes: Axes, records: tuple[Record, ...]) -> None:
    """Draw the AUROC of both scores with intervals."""
    styles, names = detector_styles(DETECTORS), [name for name in SETS if name != OWN]
    for offset, marker, detector in zip((0.13, -0.13), ("o", "D"), DETECTORS, strict=True):
        for row, name in enumerate(names):
            r = next(r for r in records if (r.out_dist, r.detector) == (name, detector))
            y, color = len(names) - row + offset, styles[detector].color
            axes.plot([r.auroc_low, r.auroc_high], [y, y], color=color, linewidth=3, alpha=0.5)
            axes.plot(r.auroc, y, marker, color=color, label=detector if row == 0 else None)
            axes.annotate(f"{r.auroc:.2f}", (r.auroc, y), (0, 6), textcoords="offset points", ha="center", fontsize=7)
    axes.axvline(0.5, color="#999999", linewidth=0.8)
    axes.set(xlim=(-0.05, 1.08), ylim=(0.4, len(names) + 0.9), xlabel="AUROC (0.5 = chance), 95 % interval")
    axes.set_yticks(range(len(names), 0, -1), names)
    axes.legend(loc="upper center", fontsize=7, ncols=2)


if __name__ == "__main__":
    main()
