"""Write docs/zoo.md: every trained model of the zoo with its bits/dim on test data, and a picture of its samples.

Command: python benchmarks/zoo.py [--limit N] [--data-root DIR] [--undertrained NAME ...] [--local NAME ...] [--anew]
The bits/dim go into docs/zoo.json, from which a later run takes those of models that have not changed, and into the
models' cards, which leaves their fingerprints alone. Look at the pictures, and name those models whose samples do not
look like their data after --undertrained, and those whose samples have the strokes, textures and colours of their data
but not its objects after --local.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fisherscope.core.store import read_json, write_atomic, write_json
from fisherscope.data import Samples, load_samples
from fisherscope.models.base import GenerativeModel, load_model
from fisherscope.models.diffusion import Diffusion
from fisherscope.models.files import read_head, write_head
from fisherscope.models.vae import VAE
from fisherscope.models.zoo import PREFIX, ZooEntry, zoo_entries, zoo_root
from fisherscope.pipeline.models import grid_picture

DOCS: Final = Path(__file__).parents[1] / "docs"
IMAGES: Final = 36
LARGEST_PICTURE: Final = 150_000  # bytes

COLUMNS: Final = (
    *("name", "family", "data", "parameters", "MiB", "steps", "minutes", "seed"),
    *("bits/dim", "images", "published"),
)
PUBLISHED: Final[Mapping[str, str]] = {
    "glow-cifar10": "3.35 (Kingma & Dhariwal 2018)",
    "glow-mnist": "1.05 (Glow in Grathwohl et al. 2019)",
    "glow-tiny_imagenet32": "4.09 on ImageNet 32x32, another set (Kingma & Dhariwal 2018)",
    "vae-cifar10": "≤ 3.11, with inverse autoregressive flows (Kingma et al. 2016)",
    "diffusion-cifar10": "≤ 3.70 trained on the bound, ≤ 3.75 on the simple loss (Ho et al. 2020)",
}
"""Bits/dim on test data that papers report of far larger models, trained on all of the set."""

HEAD: Final = """# The zoo

Written by `{command}`; do not edit by hand. All figures are in [zoo.json](zoo.json).

Trained models that come with the package: give `zoo:NAME` wherever a model is wanted. They are small, and were
trained for the minutes below on a part of each set's training images (`fisherscope info zoo:NAME` has the command).
Bits/dim are means over a random draw of the test images, on which no model was trained; lower is better. The
published figures are of far larger models that were trained far longer on all of the set: a measure of the distance,
no competition.

"""

NOTES: Final = """
The error is the standard error over the test images; for a diffusion model it covers the random timesteps and noises
too. Those of gtsrb are frames of fewer signs, so its error is larger than it says.

- glow: a bound on the bits/dim under uniform dequantisation, as published figures of Glow are.
- pixelcnn: exact. We know of no published figure for grey 8-bit sets; the gated PixelCNN has 3.03 on CIFAR-10 (van den
  Oord et al. 2016).
- vae: the importance-weighted bound of K = {latents} latents an image.
- diffusion: an unbiased estimate of the variational bound, from {draws} random timesteps an image.
- `...-background`: the likelihood ratio's model of the background, trained on images of which a fifth of the values are
  noise, for half as many steps. Its bits/dim are those of clean images.

## Samples

Drawn with seed 0, none picked. Those of a VAE are its decoder's means, without the likelihood's noise, as is usual.
"""


@dataclass(frozen=True)
class Measured:
    """Bits/dim of one model on test images."""

    mean: float
    error: float
    images: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every model of the zoo, draw its samples and write the page."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(given)
    entries = zoo_entries(options.zoo)
    if not entries:
        sys.exit(f"{options.zoo} holds no model")
    figures = options.docs / "zoo.json"
    known = read_json(figures) if figures.is_file() and not options.anew else {}
    rows, pictures = [], []
    for entry in entries:
        name = entry.name.removeprefix(PREFIX)
        folder = options.zoo / name
        shown = options.docs / "images" / "zoo" / f"{name}.png"
        what = how_measured(folder, options)
        measured = Measured(**known[name]["measured"]) if known.get(name, {}).get("what") == what else None
        if measured is None or not shown.is_file():
            measured = measure(folder, options)
            write_atomic(shown, picture(load_model(folder)))
            known = {**known, name: {"what": what, "measured": asdict(measured)}}
            # after every model, so that an interrupted run goes on where it stopped
            write_json(figures, dict(sorted(known.items())))
        if not options.keep_cards:
            write_card(folder, measured.mean)
        print(
            f"{name}: {measured.mean:.3f} ± {measured.error:.3f} bits/dim on {measured.images} test images", flush=True
        )
        rows.append(row(name, entry, measured))
        pictures.append(section(name, verdict(name, options)))
    names = {entry.name.removeprefix(PREFIX) for entry in entries}
    write_json(figures, {name: said for name, said in known.items() if name in names})
    notes = NOTES.format(latents=options.latents, draws=options.draws)
    page = HEAD.format(command=command(given, options)) + table(rows) + notes + "".join(pictures)
    write_atomic(options.docs / "zoo.md", page.encode())


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000, help="test images a model, at most")
    parser.add_argument("--latents", type=int, default=64, help="latents of a VAE's bound")
    parser.add_argument("--draws", type=int, default=16, help="timesteps an image of a diffusion model's bound")
    parser.add_argument("--undertrained", nargs="*", default=[], metavar="NAME", help="models to call so")
    parser.add_argument("--local", nargs="*", default=[], metavar="NAME", help="models of textures without objects")
    parser.add_argument("--anew", action="store_true", help="measure models that have not changed, too")
    parser.add_argument("--keep-cards", action="store_true", help="leave the models' cards as they are")
    parser.add_argument("--data-root", default=os.environ.get("FISHERSCOPE_DATA"), help="folder of named sets")
    parser.add_argument("--zoo", type=Path, default=zoo_root(), help="folder of the models")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where zoo.md and images/zoo go")
    return parser.parse_args(arguments)


def command(given: Sequence[str], options: argparse.Namespace) -> str:
    """Return the command line without the places of data and files, which differ from machine to machine."""
    places = {str(v) for v in (options.data_root, options.zoo, options.docs)} | {"--data-root", "--zoo", "--docs"}
    return shlex.join(["python", "benchmarks/zoo.py", *(word for word in given if word not in places)])


def how_measured(folder: Path, options: argparse.Namespace) -> dict[str, str | int]:
    """Return all that the bits/dim of a model depend on."""
    return {
        "fingerprint": read_head(folder).fingerprint,
        "limit": options.limit,
        "latents": options.latents,
        "draws": options.draws,
    }


@torch.no_grad()
def measure(folder: Path, options: argparse.Namespace) -> Measured:
    """Return the bits/dim of a model on the test split of the set that it was trained on."""
    model = load_model(folder)
    data = load_samples(held_out(model.card.data), data_root=options.data_root, limit=options.limit)
    nats, batch = bound(model, folder, options)
    values = torch.cat([nats(x, keys) for x, keys in batches(data, batch)]).double() / (-model.n_dims * math.log(2))
    return Measured(float(values.mean()), float(values.std()) / math.sqrt(len(values)), len(values))


def held_out(trained_on: str) -> str:
    """Return the test split of the set that a model was trained on, by the card's words for that."""
    return f"{trained_on.partition('[')[0]}[test]"


def bound(
    model: GenerativeModel, folder: Path, options: argparse.Namespace
) -> tuple[Callable[[Tensor, np.ndarray], Tensor], int]:
    """Return the best bound of log p that can be had at a decent price, and how many images it takes at once."""
    if isinstance(model, VAE):
        tight = load_model(folder, settings={"importance_samples": options.latents})
        return lambda x, keys: tight.log_prob(x, keys=keys), 16
    if isinstance(model, Diffusion):
        return lambda x, keys: model.bound_with_error(x, keys=keys, draws=options.draws)[0], 32
    return lambda x, keys: model.log_prob(x, keys=keys), 64


def batches(data: Samples, size: int) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield images and their keys."""
    for start in range(0, len(data), size):
        yield torch.from_numpy(data.x[start : start + size]), data.keys[start : start + size]


def write_card(folder: Path, bits_per_dim: float) -> None:
    """Put the test bits/dim into a model's card; the fingerprint is of the parameters and stays."""
    head = read_head(folder)
    values = {**head.card.bits_per_dim, "test": round(bits_per_dim, 4)}
    write_head(folder, replace(head, card=replace(head.card, bits_per_dim=values)))


def picture(model: GenerativeModel) -> bytes:
    """Return a grid of samples as a PNG file that is small enough to keep."""
    drawn = (model.mean_image if isinstance(model, VAE) else model.sample)(IMAGES, seed=0).numpy()
    content = grid_picture(drawn, 2)
    if len(content) > LARGEST_PICTURE:
        sys.exit(f"the samples of {model.card.name} take {len(content)} bytes, too many to keep")
    return content


def row(name: str, entry: ZooEntry, measured: Measured) -> list[str]:
    """Return the cells of one model."""
    card = entry.card
    return [
        f"`zoo:{name}`",
        entry.family,
        card.data.replace("[train]", ""),
        f"{entry.parameters:,}",
        f"{entry.bytes / 2**20:.2f}",
        f"{card.steps:,}",
        f"{card.minutes:.1f}",
        str(card.seed),
        f"{measured.mean:.3f} ± {measured.error:.3f}",
        f"{measured.images:,}",
        PUBLISHED.get(name.partition("-seed")[0], "-"),
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def verdict(name: str, options: argparse.Namespace) -> str:
    """Return what a person who looked at the samples says of them, or nothing."""
    if name in options.undertrained:
        return "Undertrained: its samples do not look like its data."
    if name in options.local:
        return "Undertrained: its samples have the strokes, textures and colours of its data, but not its objects."
    return ""


def section(name: str, said: str) -> str:
    """Return the picture of one model's samples."""
    said = f"\n{said}\n" if said else ""
    return f"\n### {name}\n{said}\n![Samples of zoo:{name}](images/zoo/{name}.png)\n"


if __name__ == "__main__":
    main()
