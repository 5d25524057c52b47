"""Write docs/explanation.md: do heat maps point at what is novel?

Command: python benchmarks/explanation.py MODEL --in-dist cifar10 --patches gtsrb [--detector NAME ...] [--limit N]
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pasting import Pasted, paste
from pixel_measures import FRACTIONS, Maps, deletion_curve, interval, pixel_aurocs, reconstruction_error

from fisherscope.core.errors import ModelError
from fisherscope.core.keys import sample_keys
from fisherscope.core.store import write_atomic
from fisherscope.data import Samples, load_samples
from fisherscope.detectors import DEFAULT_DETECTOR
from fisherscope.evaluation import auroc
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.fitting import fit
from fisherscope.pipeline.guard import Guard
from fisherscope.pipeline.saliency import ExplainSettings, contrast_map, filtered, leverage, mean_gradient, positions
from fisherscope.pipeline.target import Target, load_target

DOCS = Path(__file__).parents[1] / "docs"
DETECTORS = (DEFAULT_DETECTOR, "rao-sketch")
LIKELIHOOD, RECONSTRUCTION, CONTRAST = "d log p / dx", "reconstruction error", "contrast alone, no model"
LEVERAGE = "leverage, no detector"
WIDTHS = (0.0, 1.0, 2.0, 3.0, 4.0)

HEAD = """# Do heat maps point at what is novel?

Written by `{command}`; do not edit by hand.

{model} A {size}x{size} patch of {patches} is pasted into {n} held-out images of {in_dist}, at a place drawn by the
image's key; the control pastes patches of other {in_dist} images into the same places, so that a map which finds only
the seam finds it there too. The detectors are fitted and calibrated on {fit} other held-out images of {in_dist}.

## Does the patch move the score?

A map says where a SCORE comes from: it can only point at a patch that changes the score. AUROC: images with a patch
against the same images without. Share raised: of the images, whose score the patch raises; 50 % is chance.
"""

MAPS = """
## Pixel AUROC

The chance that a pixel of the patch gets a higher value than one outside, the mean over {reported} images with a 95 %
bootstrap interval over them; 0.5 is chance. The Gaussian filter over each map (of {widths} pixels) is chosen on the
other {chosen} images with patches of {patches}, for every map alike.

- `contrast`: |sum over channels of d score / dx times (x less x under a Gaussian filter of 3 pixels)|: to first order,
  what smoothing that pixel would change in the score.
- `positions`: where the parameter gradient that the score reads comes from, signed; it adds up to <d score / d g, g>.
- `gradient`: |d score / dx|, summed over the channels.{smooth}
- `{likelihood}` and `{likelihood}, contrast`: the same two of log p, a baseline.
- `{leverage}`: how unlike those of the fit images the patches are that the model's convolutions read at a place: the
  mean over the convolutions of the log of (a - mean)' A^-1 (a - mean), A their covariance. It needs no gradient.
- `{contrast}`: |x less x under the filter|: a map has to beat it, and has to be better on the patch of the other set
  than on the control, before it can be said to find what is novel rather than an edge.
- `where raised most`: the quarter of the reported images whose score the patch of {patches} raises most.
"""

DELETION = """
## Deletion curve

The share of pixels named is replaced by the image under a Gaussian filter of 4 pixels, in falling order of a map
(Petsiuk et al. 2018) or in random order, on {n} of the images. Shown is the detector's median p-value: a map that
finds what is novel makes it rise. Smoothing is itself novel to a detector that notices missing detail: then most
curves fall.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Paste, explain, measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a saved model, or package.module:factory")
    parser.add_argument("--in-dist", required=True, help="the model's set: hosts, and donors of the control")
    parser.add_argument("--patches", required=True, help="set that the patches are cut from")
    parser.add_argument("--detector", nargs="+", default=list(DETECTORS), help="detectors with a gradient")
    parser.add_argument("--size", type=int, default=12, help="side of a patch")
    parser.add_argument("--fit", type=int, default=600, help="images that the detectors are fitted on")
    parser.add_argument("--limit", type=int, default=200, help="images with a patch")
    parser.add_argument("--deletions", type=int, default=50, help="images of the deletion curve")
    parser.add_argument("--smooth", type=int, default=0, help="perturbed copies whose maps are averaged")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--data-root", default=os.environ.get("FISHERSCOPE_DATA"), help="folder of named sets")
    parser.add_argument("--out", type=Path, default=DOCS / "explanation.md", help="page to write")
    options = parser.parse_args(arguments)
    study = Study.prepare(options)
    # The place of the data differs from machine to machine and is no part of the result.
    words = [w for w in sys.argv[1:] if not w.startswith("--data-root") and w != options.data_root]
    page = study.page(shlex.join(["python", "benchmarks/explanation.py", *words]))
    write_atomic(options.out, page.encode())
    print(page)


@dataclass(frozen=True)
class Study:
    """One model with its guards, and the images that they are asked about."""

    target: Target
    guards: dict[str, Guard]
    likelihood: Guard
    good: Samples
    hosts: NDArray[np.uint8]
    novel: Pasted
    control: Pasted
    options: argparse.Namespace

    @classmethod
    def prepare(cls, options: argparse.Namespace) -> Study:
        """Load the model, split its held-out images into three parts without overlap, and fit the guards."""
        target = load_target(options.model)
        shape = target.data_shape
        if shape is None or len(shape) != 3:
            raise ModelError(f"{options.model} has samples of shape {shape}, expected a model of images (C, H, W)")
        n, wanted = options.limit, options.fit + 2 * options.limit
        own = _load(options.in_dist, wanted, shape, options)
        # files come sorted by class: the three parts must not differ in it
        order = np.random.default_rng(options.seed).permutation(len(own))
        good, hosts, others = (own.select(part) for part in np.split(order, [options.fit, options.fit + n]))
        donors = _load(options.patches, n, shape, options)

        def fitted(name: str) -> Guard:
            return fit(target, good, detector=name, fpr=0.05, seed=options.seed)

        return cls(
            target,
            {name: fitted(name) for name in options.detector},
            fitted("likelihood"),
            good,
            hosts.x,
            paste(hosts.x, donors.x, options.size, options.seed),
            paste(hosts.x, others.x, options.size, options.seed),
            options,
        )

    def maps(self, pasted: Pasted) -> dict[str, Maps]:
        """Return the maps (n, H, W) of each detector and baseline, without any filter."""
        found: dict[str, Maps] = {}
        for name, guard in {**self.guards, LIKELIHOOD: self.likelihood}.items():
            batches = as_batches(pasted.x, guard.target)
            table = guard.extract(batches)
            slope = mean_gradient(guard, batches, table, ExplainSettings(smooth=self.options.smooth), None).x
            if guard is self.likelihood:
                found[name], found[f"{name}, contrast"] = np.abs(slope).sum(1), contrast_map(slope, pasted.x)
                continue
            found[f"{name}: contrast"] = contrast_map(slope, pasted.x)
            found[f"{name}: positions"] = positions(guard, batches, table, None).maps
            found[f"{name}: gradient"] = np.abs(slope).sum(1)
        found[LEVERAGE] = leverage(self.likelihood, batches, as_batches(self.good, self.target), None)
        found[CONTRAST] = contrast_map(np.ones_like(slope), pasted.x)
        errors = reconstruction_error(self.target, pasted.x, self.options.seed)
        return found if errors is None else {**found, RECONSTRUCTION: errors}

    def page(self, command: str) -> str:
        """Return the page."""
        novel, control = self.maps(self.novel), self.maps(self.control)
        options, n = self.options, len(self.hosts)
        head = HEAD.format(
            command=command,
            model=_describe(self.target, options.model),
            size=options.size,
            patches=options.patches,
            in_dist=options.in_dist,
            n=n,
            fit=options.fit,
        )
        maps = MAPS.format(
            reported=n - n // 2,
            chosen=n // 2,
            patches=options.patches,
            widths=", ".join(f"{w:g}" for w in WIDTHS),
            smooth=f" Gradients are averaged over {options.smooth} perturbed copies." if options.smooth else "",
            likelihood=LIKELIHOOD,
            contrast=CONTRAST,
            leverage=LEVERAGE,
        )
        widths = {name: self.best_width(values) for name, values in novel.items()}
        shown = {name: filtered(values, widths[name]) for name, values in novel.items()}
        return "\n".join(
            (head, self.score_table(), maps, self.auroc_table(novel, control, widths), self.deletion_table(shown))
        )

    def scores(self, guard: Guard) -> tuple[NDArray[np.float64], ...]:
        """Return the scores of the hosts, with the patch, and with the control; each with the host's noise."""
        keys, ids = sample_keys(self.hosts), tuple(f"[{i}]" for i in range(len(self.hosts)))
        return tuple(guard.score(Batches(x, ids, keys, "pasted")) for x in (self.hosts, self.novel.x, self.control.x))

    def score_table(self) -> str:
        """Return how far the pasted patches move the scores."""
        own, other = self.options.in_dist, self.options.patches
        lines = [
            f"| detector | AUROC, {other} | AUROC, {own} | raised, {other} | raised, {own} |",
            "|---|---|---|---|---|",
        ]
        for name, guard in {**self.guards, "likelihood": self.likelihood}.items():
            hosts, novel, control = self.scores(guard)
            apart = [f"{auroc(hosts, scores):.3f}" for scores in (novel, control)]
            raised = [f"{np.mean(scores > hosts):.0%}" for scores in (novel, control)]
            lines.append(f"| {name} | {' | '.join(apart + raised)} |")
        return "\n".join(lines) + "\n"

    def best_width(self, maps: Maps) -> float:
        """Return the filter of the highest mean pixel AUROC on the first half of the images."""
        half = slice(0, len(maps) // 2)
        return max(WIDTHS, key=lambda w: pixel_aurocs(filtered(maps[half], w), self.novel.masks[half]).mean())

    def auroc_table(self, novel: dict[str, Maps], control: dict[str, Maps], widths: dict[str, float]) -> str:
        """Return the table of pixel AUROCs on the second half of the images."""
        own, other, seed = self.options.in_dist, self.options.patches, self.options.seed
        lines = [
            f"| map | filter | patch of {other} | control: patch of {own} | where raised most |",
            "|---|---|---|---|---|",
        ]
        half = slice(len(self.hosts) // 2, None)
        rises = {name: self._rise(guard)[half] for name, guard in self.guards.items()}
        for name, maps in novel.items():
            found, same = (
                pixel_aurocs(filtered(values[half], widths[name]), self.novel.masks[half])
                for values in (maps, control[name])
            )
            rise = rises.get(name.partition(":")[0])
            most = "" if rise is None else interval(found[np.argsort(-rise)[: len(rise) // 4]], seed)
            lines.append(f"| {name} | {widths[name]:g} | {interval(found, seed)} | {interval(same, seed)} | {most} |")
        return "\n".join(lines) + "\n"

    def _rise(self, guard: Guard) -> NDArray[np.float64]:
        hosts, novel, _ = self.scores(guard)
        return novel - hosts

    def deletion_table(self, novel: dict[str, Maps]) -> str:
        """Return how each detector's p-value rises as the pixels of its map's highest values are smoothed away."""
        rows = slice(0, self.options.deletions)
        x, chance = self.novel.x[rows], np.random.default_rng(self.options.seed).random(self.novel.masks[rows].shape)
        lines = [DELETION.format(n=len(x)), f"| detector | order | {' | '.join(f'{f:.0%}' for f in FRACTIONS)} |"]
        lines.append(f"|---|---|{'---|' * len(FRACTIONS)}")
        for name, guard in self.guards.items():
            kinds = [f"{name}: {kind}" for kind in ("contrast", "positions", "gradient")]
            orders = {n: novel[n][rows] for n in (*kinds, LIKELIHOOD, CONTRAST, LEVERAGE)}
            for order, maps in {**orders, "random": chance}.items():
                curve = deletion_curve(guard, x, maps)
                lines.append(f"| {name} | {order} | {' | '.join(f'{v:.3f}' for v in curve)} |")
        return "\n".join(lines) + "\n"


def _load(name: str, count: int, shape: tuple[int, ...], options: argparse.Namespace) -> Samples:
    channels, height, width = shape
    root, size = options.data_root, (channels, height, width)
    return load_samples(name, data_root=root, limit=count, seed=options.seed, resize=size)


def _describe(target: Target, spec: str) -> str:
    card = getattr(target.module, "card", None)
    parameters = sum(p.numel() for p in target.module.parameters())
    made = f" (`{card.command}`)" if card is not None and card.command else ""
    return f"Model: `{Path(spec).name}`, {type(target.module).__name__} of {parameters:,} parameters{made}."


if __name__ == "__main__":
    main()
