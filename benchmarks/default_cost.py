"""Write docs/default_cost.md: what the default detector costs over an ordinary forward and backward pass.

Command: python benchmarks/default_cost.py [--models NAME ...] [--rounds N] [--samples N] [--zoo DIR] [--data-root DIR]
CPU time on one thread. In every round everything runs once, so that drift of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from zoo import held_out

from fisherscope.core.store import write_atomic, write_json
from fisherscope.data import Samples, load_samples
from fisherscope.detectors import DEFAULT_DETECTOR, make_detector
from fisherscope.detectors.summary import CODES
from fisherscope.features.gradients.logprob import LogProb
from fisherscope.features.terms import term_log_prob, term_names
from fisherscope.models.base import GenerativeModel, load_model, make_model
from fisherscope.models.protocols import InitialisedFromData
from fisherscope.models.zoo import PREFIX, ZooEntry, zoo_entries, zoo_root
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.extraction import BATCH, extract_table
from fisherscope.pipeline.fitting import fit
from fisherscope.pipeline.target import Target
from fisherscope.pipeline.versions import versions

DOCS = Path(__file__).parents[1] / "docs"
PIECE = 2 * BATCH
"""Samples of one timed run."""
ROUNDS = 15
SAMPLES = 1000
FIT_ROUNDS = 3
WIDE = 128
WIDE_TARGET, NARROW_TARGET, FIT_TARGET = 1.0, 1.15, 1.5
WIDE_GLOW = {"data_shape": (3, 32, 32), "levels": 3, "steps": 8, "hidden": WIDE}
WIDE_SET = "cifar10"

HEAD = """# The cost of the default

Written by `{command}`; do not edit by hand. All figures are in
[default_cost.json](default_cost.json). {machine}

What `{detector}` costs on the zoo's models and on a Glow of {wide} channels with its initial weights, in CPU time on
one thread.

- **Extraction** is `extract_table` with just the blocks that the detector reads
  ({blocks}), as `fisherscope.fit` and a guard call it, over ordinary
  batched forward and backward passes, by all parameters, of every term of log p that the detector judges by itself,
  {piece} samples in batches of {batch}. Medians over {rounds} rounds in which each runs once, after one
  call of each; in brackets the quartiles of the rounds' own ratios. Beside it the same over ordinary passes of
  `log_prob`, all of log p at once: a diffusion model's terms are its timesteps, which cost no more one by one; a
  VAE's are likelihood, cross-entropy and entropy, and the encoder is gone through for all three.
- **Fit** is `fisherscope.fit` on a table of {samples:,} extracted samples, half of which fit the detector and half
  calibrate it, over the extraction of those samples. Median over {fit_rounds} runs.

The goals are at most {wide_target:.2f} for models of {wide} or more channels, {narrow_target:.2f} for smaller ones, and
{fit_target:.1f} for the fit. Channels are the widest hidden layer's, by the model's settings.
"""


@dataclass(frozen=True)
class Cost:
    """What the default costs on one model; seconds of CPU time.

    Attributes:
        model: its name.
        channels: of the widest hidden layer.
        terms: of log p, each judged by itself.
        base: ordinary forward and backward passes of some batches, term by term.
        whole: those of all of log p at once.
        extraction: of the same batches.
        ratio: extraction over base.
        low: lower quartile of the rounds' ratios.
        high: upper quartile.
        code: the code lengths of the same samples alone.
        table: extraction of the samples to fit on.
        fit: fit on them.
    """

    model: str
    channels: int
    terms: int
    base: float
    whole: float
    extraction: float
    ratio: float
    low: float
    high: float
    code: float
    table: float
    fit: float

    @property
    def target(self) -> float:
        """Largest ratio that is wanted."""
        return WIDE_TARGET if self.channels >= WIDE else NARROW_TARGET

    @property
    def fit_ratio(self) -> float:
        """Fit over extraction of the same samples."""
        return self.fit / self.table

    @property
    def missed(self) -> list[str]:
        """What is missed, in words."""
        found = []
        if self.ratio > self.target:
            found.append(f"extraction {self.ratio:.2f}, wanted {self.target:.2f}")
        if self.fit_ratio > FIT_TARGET:
            found.append(f"fit {self.fit_ratio:.2f}, wanted {FIT_TARGET:.1f}")
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every model and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="in which everything runs once")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="to fit on")
    parser.add_argument("--zoo", type=Path, default=zoo_root(), help="folder of the models")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="which of them; by default all, which takes hours")
    parser.add_argument("--data-root", default=os.environ.get("FISHERSCOPE_DATA"), help="folder of named sets")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page goes")
    options = parser.parse_args(arguments)
    entries = {entry.name.removeprefix(PREFIX): entry for entry in zoo_entries(options.zoo)}
    if unknown := sorted(set(options.models or ()) - set(entries)):
        parser.error(f"no models of the zoo: {', '.join(unknown)}; there are {', '.join(entries)}")
    if options.samples < PIECE:
        parser.error(f"{options.samples} samples are fewer than the {PIECE} of a timed run")
    torch.set_num_threads(1)
    costs = []
    with threadpool_limits(1):
        for name, model, data in models(entries, options):
            costs.append(measure(name, model, data, options.rounds))
            print(costs[-1], flush=True)
    # Where models and data lie differs from machine to machine and is no part of the result.
    given = [
        f"--{key}={value}"
        for key, value in (("rounds", options.rounds), ("samples", options.samples))
        if value != parser.get_default(key)
    ] + (["--models", *options.models] if options.models else [])
    command = shlex.join(["python", "benchmarks/default_cost.py", *given])
    page, figures = write_page(costs, command, options)
    write_json(options.docs / "default_cost.json", figures)
    write_atomic(options.docs / "default_cost.md", page.encode())
    print(page)


def models(
    entries: Mapping[str, ZooEntry], options: argparse.Namespace
) -> Iterator[tuple[str, GenerativeModel, Samples]]:
    """Yield name, model and test samples of the zoo's models and of a wide Glow."""
    load = partial(load_samples, data_root=options.data_root, limit=options.samples, seed=0)
    for name, entry in entries.items():
        if options.models and name not in options.models:
            continue
        yield name, load_model(options.zoo / name), load(held_out(entry.card.data))
    wide, data = make_model("glow", **WIDE_GLOW), load(f"{WIDE_SET}[test]")
    if isinstance(wide, InitialisedFromData):
        wide.initialise(torch.from_numpy(data.x[:BATCH]), keys=data.keys[:BATCH])
    yield f"glow of {WIDE} channels, initial weights", wide.eval(), data


def measure(name: str, model: GenerativeModel, data: Samples, rounds: int) -> Cost:
    """Return the cost on one model."""
    target = Target(model, None, name)
    samples, blocks = as_batches(data, target), make_detector(DEFAULT_DETECTOR).requires
    terms, log_prob = term_names(model, None), type(model).log_prob
    piece = samples.select(range(PIECE))
    runs: dict[str, Callable[[], Any]] = {
        "base": ordinary(model, piece, [term_log_prob(i) for i in range(len(terms))] or [log_prob]),
        "whole": ordinary(model, piece, [log_prob]),
        "extraction": partial(extract_table, target, piece, blocks),
        "code": partial(extract_table, target, piece, CODES),
    }
    seconds = rounds_of(runs, rounds)
    ratios = [a / b for a, b in zip(seconds["extraction"], seconds["base"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    table, whole = timed(partial(extract_table, target, samples, blocks))
    fits = rounds_of({"fit": partial(fit, target, table)}, FIT_ROUNDS)["fit"]
    return Cost(
        model=name,
        channels=channels(model.config()),
        terms=max(1, len(terms)),
        base=middle["base"],
        whole=middle["whole"],
        extraction=middle["extraction"],
        ratio=middle["extraction"] / middle["base"],
        low=low,
        high=high,
        code=middle["code"],
        table=whole,
        fit=statistics.median(fits),
    )


def ordinary(model: GenerativeModel, samples: Batches, log_probs: Sequence[LogProb]) -> Callable[[], None]:
    """Return forward and backward passes of each of ``log_probs`` by all parameters, batch after batch."""
    parameters = list(model.parameters())
    batches = [
        (torch.from_numpy(np.asarray(samples.x[i : i + BATCH])).float(), samples.keys[i : i + BATCH])
        for i in range(0, len(samples), BATCH)
    ]

    def run() -> None:
        for x, keys in batches:
            for log_prob in log_probs:
                torch.autograd.grad(log_prob(model, x, seed=0, keys=keys).sum(), parameters, allow_unused=True)

    return run


def rounds_of(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of every run in each of several rounds, after one round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(timed(run)[1])
    return found


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns and the CPU seconds that it takes."""
    gc.collect()
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def channels(config: Mapping[str, Any]) -> int:
    """Return the channels of a model's widest hidden layer, by its settings."""
    if "multipliers" in config:
        return int(config["channels"]) * max(config["multipliers"])
    return int(config["hidden"])


def write_page(costs: Sequence[Cost], command: str, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the page and its figures."""
    made_with = versions()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores; Python {made_with['python']}, torch {made_with['torch']}; "
        "float32."
    )
    head = HEAD.format(
        command=command,
        machine=machine,
        detector=DEFAULT_DETECTOR,
        wide=WIDE,
        blocks=", ".join(f"`{block}`" for block in make_detector(DEFAULT_DETECTOR).requires),
        batch=BATCH,
        piece=PIECE,
        rounds=options.rounds,
        samples=options.samples,
        fit_rounds=FIT_ROUNDS,
        wide_target=WIDE_TARGET,
        narrow_target=NARROW_TARGET,
        fit_target=FIT_TARGET,
    )
    figures = {
        "detector": DEFAULT_DETECTOR,
        "versions": made_with,
        "batch": BATCH,
        "piece": PIECE,
        "rounds": options.rounds,
        "samples": options.samples,
        "costs": [asdict(cost) | {"target": cost.target, "fit_ratio": cost.fit_ratio} for cost in costs],
    }
    return "\n".join([head, missed(costs), extraction_table(costs), fit_table(costs)]), figures


def missed(costs: Sequence[Cost]) -> str:
    """Say which targets are missed."""
    lines = [f"- {cost.model}: {'; '.join(cost.missed)}." for cost in costs if cost.missed]
    verdict = (
        f"Missed on {len(lines)} of {len(costs)} models:\n\n" + "\n".join(lines) if lines else "Missed on no model."
    )
    return f"## What is missed\n\n{verdict}\n"


def extraction_table(costs: Sequence[Cost]) -> str:
    """Return the section of the extraction."""
    rows = [
        f"| {c.model} | {c.channels} | {c.terms} | {1e3 * c.base:.0f} | {c.ratio:.2f} [{c.low:.2f}, {c.high:.2f}] "
        f"| {c.target:.2f} | {_met(c.ratio, c.target)} | {c.extraction / c.whole:.2f} "
        f"| {100 * c.code / c.extraction:.1f} % |"
        for c in costs
    ]
    return (
        "## Extraction over ordinary passes\n\n"
        "| model | channels | terms of log p | ordinary, ms | extraction | wanted | met | over all of log p at once "
        "| code lengths' share |\n"
        "| --- | :-: | :-: | :-: | :-: | :-: | :-: | :-: | :-: |\n" + "\n".join(rows) + "\n"
    )


def fit_table(costs: Sequence[Cost]) -> str:
    """Return the section of the fit."""
    rows = [
        f"| {c.model} | {c.table:.1f} | {c.fit:.2f} | {c.fit_ratio:.2f} | {_met(c.fit_ratio, FIT_TARGET)} |"
        for c in costs
    ]
    return (
        "## Fit over the extraction of its samples\n\n"
        f"| model | extraction, s | fit, s | fit over extraction (wanted {FIT_TARGET:.1f}) | met |\n"
        "| --- | :-: | :-: | :-: | :-: |\n" + "\n".join(rows) + "\n"
    )


def _met(value: float, target: float) -> str:
    return "yes" if value <= target else "**no**"


if __name__ == "__main__":
    main()
