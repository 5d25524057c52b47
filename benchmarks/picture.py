"""Draw docs/images/demo.png, the picture of the README, from the demo's own figures.

Command: make demo && python benchmarks/picture.py --demo runs/demo
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fisherscope.core.store import write_atomic
from fisherscope.evaluation import Record
from fisherscope.pipeline.demo import OUT_DISTS, run_demo
from fisherscope.report.figures import figure_bytes
from fisherscope.report.theme import detector_styles, display_name, set_styles, theme

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo.png"
DETECTORS = ("likelihood", "layerwise-gaussian")


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate the demo (its cached tables are used) and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of the demo")
    evaluation = run_demo(parser.parse_args(arguments).demo).evaluation
    group = evaluation.groups[1]
    tables = {"texture-patches[test]": group.parts["test"], **group.out}
    with theme():
        figure = Figure(figsize=(8.2, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _likelihoods(left, {name: -t.block("log_p").ravel() / (256 * np.log(2)) for name, t in tables.items()})
        _areas(right, [r for r in evaluation.records if r.group_size == 1])
    write_atomic(PICTURE, figure_bytes(figure, "png"))


def _likelihoods(axes: Axes, bits: dict[str, np.ndarray]) -> None:
    edges = np.histogram_bin_edges(np.concatenate(list(bits.values())), bins=40)
    for name, style in set_styles(tuple(bits)).items():
        share = 100 * np.histogram(bits[name], edges)[0] / len(bits[name])
        own = name.startswith("texture")
        label = display_name(name) + (" (what it learnt)" if own else "")
        axes.stairs(share, edges, color=style.color, linestyle=style.dash, linewidth=1.6, label=label)
        if own:
            axes.stairs(share, edges, fill=True, color=style.color, alpha=0.3)
    axes.set(xlabel="bits per dimension (← more likely)", ylabel="% of set per bin")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=2)


def _areas(axes: Axes, records: Sequence[Record]) -> None:
    styles = detector_styles(DETECTORS)
    names = [f"{name}[test]" for name in OUT_DISTS]
    for offset, detector in zip((0.14, -0.14), DETECTORS, strict=True):
        for row, name in enumerate(names):
            r = next(r for r in records if (r.out_dist, r.detector) == (name, detector))
            y = len(names) - row + offset
            color = styles[detector].color
            axes.plot([r.auroc_low, r.auroc_high], [y, y], color=color, linewidth=3, alpha=0.5)
            marker = "o" if detector == DETECTORS[0] else "D"
            axes.plot(r.auroc, y, marker, color=color, label=detector if row == 0 else None)
            axes.annotate(f"{r.auroc:.2f}", (r.auroc, y), (0, 6), textcoords="offset points", ha="center", fontsize=7)
    axes.axvline(0.5, color="#999999", linewidth=0.8)
    axes.set(xlim=(-0.03, 1.06), ylim=(0.4, len(names) + 0.6), xlabel="AUROC (0.5 = chance), 95 % interval")
    axes.set_yticks(range(len(names), 0, -1), [display_name(n) for n in names])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=2)


if __name__ == "__main__":
    main()
