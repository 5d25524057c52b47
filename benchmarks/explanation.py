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
import torch
from numpy.typing import NDArray
from pasting import Pasted, paste
from scipy.ndimage import gaussian_filter

from fisherscope.core.errors import ModelError
from fisherscope.core.keys import sample_keys
from fisherscope.core.store import write_atomic
from fisherscope.data import Samples, load_samples
from fisherscope.evaluation import auroc
from fisherscope.models.vae import VAE
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.guard import Guard, fit
from fisherscope.pipeline.saliency import ExplainSettings, mean_gradient
from fisherscope.pipeline.target import Target, load_target

Maps = NDArray[np.float64]

DOCS = Path(__file__).parents[1] / "docs"
DETECTORS = ("layerwise-gaussian", "layerwise-upper", "rao-sketch", "rao-sketch-equalised")
LIKELIHOOD, RECONSTRUCTION, CONTRAST = "d log p / dx", "reconstruction error", "contrast alone, no model"
PRODUCT = " x contrast"
FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
REPLICATES = 2000
MAP_BLUR = 2.0
CONTRAST_BLUR = 3.0
REMOVED_BLUR = 4.0

HEAD = """# Do heat maps point at what is novel?

Written by `{command}`; do not edit by hand.

{model} A {size}x{size} patch of {patches} is pasted into {n} held-out images of {in_dist}, at a place drawn by the
image's key; the control pastes patches of other {in_dist} images into the same places, so that a map which finds only
the seam finds it there too. **Pixel AUROC**: the chance that a pixel of the patch gets a higher value than one outside,
the mean over images with a 95 % bootstrap interval over them; 0.5 is chance. The detectors are fitted on {fit} other
held-out images of {in_dist}; nothing is chosen on these figures. `blurred`: the map after a Gaussian filter of 2
pixels, for every map alike.

A detector's map is its absolute gradient summed over the channels, as `fisherscope explain` draws it{smooth}.
With ` x contrast` it is the absolute sum over the channels of the gradient times x less x under a Gaussian filter of
3 pixels: to first order, what smoothing that pixel would change. `contrast alone` is the absolute value of that
difference, without any model: a map has to beat it, and has to be better on the patch of the other set than on the
control, before it can be said to find what is novel rather than an edge.
"""

DELETION = """
## Deletion curve

The share of pixels named is replaced by the image under a Gaussian filter of 4 pixels, in falling order of a map
(Petsiuk et al. 2018) or in random order, on {n} of the images. Shown is the detector's median p-value: a map that
finds what is novel makes it rise. Smoothing is itself novel to a detector that notices missing detail: then every
curve falls.
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
            paste(hosts.x, donors.x, options.size, options.seed),
            paste(hosts.x, others.x, options.size, options.seed),
            options,
        )

    def maps(self, pasted: Pasted) -> dict[str, Maps]:
        """Return the maps (n, H, W) of each detector and baseline."""
        contrast = pasted.x - smoothed(pasted.x, CONTRAST_BLUR)
        found: dict[str, Maps] = {}
        for name, guard in {**self.guards, LIKELIHOOD: self.likelihood}.items():
            batches = as_batches(pasted.x, guard.target)
            slope = mean_gradient(guard, batches, ExplainSettings(smooth=self.options.smooth), None).x
            found[name] = np.abs(slope).sum(1)
            found[name + PRODUCT] = np.abs((slope * contrast).sum(1))
        found[CONTRAST] = np.abs(contrast).sum(1)
        errors = reconstruction_error(self.target, pasted.x)
        return found if errors is None else {**found, RECONSTRUCTION: errors}

    def page(self, command: str) -> str:
        """Return the page."""
        novel, control = self.maps(self.novel), self.maps(self.control)
        options = self.options
        head = HEAD.format(
            command=command,
            model=_describe(self.target, options.model),
            size=options.size,
            patches=options.patches,
            in_dist=options.in_dist,
            n=len(self.novel.x),
            fit=options.fit,
            smooth=f", averaged over {options.smooth} perturbed copies" if options.smooth else "",
        )
        return f"{head}\n{self.auroc_table(novel, control)}\n{self.deletion_table(novel)}"

    def auroc_table(self, novel: dict[str, Maps], control: dict[str, Maps]) -> str:
        """Return the table of pixel AUROCs."""
        lines = [
            f"| map | patch of {self.options.patches} | blurred | control: patch of {self.options.in_dist} | blurred |",
            "|---|---|---|---|---|",
        ]
        for name, maps in novel.items():
            cells = []
            for pasted, values in ((self.novel, maps), (self.control, control[name])):
                for shown in (values, smoothed(values, MAP_BLUR)):
                    cells.append(interval(pixel_aurocs(shown, pasted.masks), self.options.seed))
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def deletion_table(self, novel: dict[str, Maps]) -> str:
        """Return how each detector's p-value rises as the pixels of its map's highest values are smoothed away."""
        rows = slice(0, self.options.deletions)
        x, chance = self.novel.x[rows], np.random.default_rng(self.options.seed).random(self.novel.masks[rows].shape)
        lines = [DELETION.format(n=len(x)), f"| detector | order | {' | '.join(f'{f:.0%}' for f in FRACTIONS)} |"]
        lines.append(f"|---|---|{'---|' * len(FRACTIONS)}")
        for name, guard in self.guards.items():
            orders = {n: novel[n][rows] for n in (name, name + PRODUCT, LIKELIHOOD, CONTRAST)}
            for order, maps in {**orders, "random": chance}.items():
                curve = deletion_curve(guard, x, maps)
                lines.append(f"| {name} | {order} | {' | '.join(f'{v:.3f}' for v in curve)} |")
        return "\n".join(lines) + "\n"


def _load(name: str, count: int, shape: tuple[int, ...], options: argparse.Namespace) -> Samples:
    channels, height, width = shape
    root, size = options.data_root, (channels, height, width)
    return load_samples(name, data_root=root, limit=count, seed=options.seed, resize=size)


def reconstruction_error(target: Target, x: NDArray[np.uint8]) -> Maps | None:
    """Return |x - decoded mean latent| summed over the channels, (n, H, W); None for other families."""
    if not isinstance(target.module, VAE):
        return None
    with torch.no_grad():
        levels = torch.from_numpy(x).to(target.device, target.dtype)
        mean, _ = target.module.encoder(levels / 127.5 - 1)
        location, _ = target.module.decoder(mean)
        return (levels - (location + 1) * 127.5).abs().sum(1).double().cpu().numpy()


def smoothed(values: NDArray[np.generic], deviation: float) -> Maps:
    """Return images or maps (n, ..., H, W) under a Gaussian filter of so many pixels, float64."""
    return gaussian_filter(values.astype(np.float64), (*(0,) * (values.ndim - 2), deviation, deviation))


def pixel_aurocs(maps: Maps, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each image's AUROC of its map against its mask, (n,)."""
    return np.asarray([auroc(heat[~mask], heat[mask]) for heat, mask in zip(maps, masks, strict=True)])


def interval(values: NDArray[np.float64], seed: int) -> str:
    """Return mean and 95 % bootstrap interval over the images."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (REPLICATES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def deletion_curve(guard: Guard, x: NDArray[np.uint8], maps: Maps) -> list[float]:
    """Return the median p-value after each share of FRACTIONS is replaced; the noise stays that of the image itself."""
    keys, ids = sample_keys(x), tuple(f"[{i}]" for i in range(len(x)))
    rank = np.argsort(np.argsort(-maps.reshape(len(x), -1), axis=1, kind="stable"), axis=1).reshape(maps.shape)
    ground = smoothed(x, REMOVED_BLUR)
    curve: list[float] = []
    for fraction in FRACTIONS:
        gone = (rank < round(fraction * rank[0].size))[:, None]
        left = np.where(gone, np.rint(ground), x).astype(np.uint8)
        curve.append(float(np.median(guard.p_value(Batches(left, ids, keys, "deleted")))))
    return curve


def _describe(target: Target, spec: str) -> str:
    card = getattr(target.module, "card", None)
    parameters = sum(p.numel() for p in target.module.parameters())
    made = f" (`{card.command}`)" if card is not None and card.command else ""
    return f"Model: `{Path(spec).name}`, {type(target.module).__name__} of {parameters:,} parameters{made}."


if __name__ == "__main__":
    main()
