"""Training steps a second of our Glow beside that of normflows, written to docs/performance-training.md.

Command: python benchmarks/glow_throughput.py [--rounds N] [--threads N] [--profile]
Both take turns in one process, so that drift of the machine hits both alike: same images, levels, steps of flow,
channels of the coupling networks, form of the 1x1 convolutions, optimiser. Needs fisherscope[bench].
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fisherscope.core.store import write_atomic
from fisherscope.models.glow import Glow

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance-training.md"

HEAD: Final = """# Performance of training

Written by `{command}`; do not edit by hand. {machine}

Training steps a second (forward, backward, Adam) of our Glow and of the Glow of normflows {version}, of the same shape
and in the same loop: the median over {rounds} rounds in which the two take turns, {steps} steps each. Both dequantise
in the step; ours draws each image's noise from its key. The libraries differ in small things: ours has learnt priors of
the latents that leave early and bounded scales; normflows learns the mean and deviation of each latent. The ratio is
ours over theirs, above 1 is faster; other work on the machine shows in how far the rounds lie apart.

| images | batch | levels x steps | hidden | 1x1 | parameters, ours / theirs | ours | normflows | ratio [least, most] |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Shape:
    """What both are built to."""

    data_shape: tuple[int, int, int]
    batch: int
    levels: int
    steps: int
    hidden: int
    permutation: str


SHAPES: Final = (
    Shape((3, 32, 32), 32, 3, 8, 64, "plain"),
    Shape((3, 32, 32), 32, 3, 8, 64, "lu"),
    Shape((3, 32, 32), 32, 3, 8, 128, "plain"),
    Shape((1, 28, 28), 32, 2, 8, 64, "plain"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both for every shape and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which both take turns")
    parser.add_argument("--steps", type=int, default=5, help="steps a turn")
    parser.add_argument("--threads", type=int, default=1, help="threads")
    parser.add_argument("--profile", action="store_true", help="print where our time goes instead")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.profile:
        print(where_time_goes(SHAPES[0]))
        return
    rows = []
    for shape in SHAPES:
        rows.append(row(shape, options))
        print(rows[-1], flush=True)
    head = HEAD.format(
        command=shlex.join(["python", "benchmarks/glow_throughput.py", *(arguments or sys.argv[1:])]),
        machine=f"{os.cpu_count()} cores, {options.threads} used; torch {torch.__version__}, Python "
        f"{platform.python_version()}; float32; {date.today().isoformat()}.",
        version=normflows_version(),
        rounds=options.rounds,
        steps=options.steps,
    )
    write_atomic(PAGE, (head + "\n".join(rows) + "\n").encode())


def row(shape: Shape, options: argparse.Namespace) -> str:
    """Return the row of one shape."""
    ours, theirs = our_glow(shape), normflows_glow(shape)
    runs = [our_step(ours, shape), normflows_step(theirs, shape)]
    for run in runs:
        run()  # the first step sets the actnorms and warms up
    rounds = [[seconds(run, options.steps) for run in runs] for _ in range(options.rounds)]
    ratios = sorted(theirs / ours for ours, theirs in rounds)
    speed = [options.steps / statistics.median(column) for column in zip(*rounds, strict=True)]
    cells = [
        "x".join(map(str, shape.data_shape)),
        str(shape.batch),
        f"{shape.levels} x {shape.steps}",
        str(shape.hidden),
        shape.permutation,
        f"{size(ours):,} / {size(theirs):,}",
        f"{speed[0]:.2f}",
        f"{speed[1]:.2f}",
        f"**{statistics.median(ratios):.2f}** [{ratios[0]:.2f}, {ratios[-1]:.2f}]",
    ]
    return f"| {' | '.join(cells)} |"


def seconds(run: Callable[[], None], steps: int) -> float:
    """Return how long some steps take."""
    start = time.perf_counter()
    for _ in range(steps):
        run()
    return time.perf_counter() - start


def size(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def images(shape: Shape) -> Tensor:
    """Return a batch of images."""
    return torch.randint(0, 256, (shape.batch, *shape.data_shape), generator=torch.Generator().manual_seed(0)).byte()


def our_glow(shape: Shape) -> Glow:
    """Return our Glow, its actnorms set."""
    model = Glow(
        shape.data_shape,
        levels=shape.levels,
        steps=shape.steps,
        hidden=shape.hidden,
        permutation="lu" if shape.permutation == "lu" else "plain",
    )
    model.initialise(images(shape))
    return model


def our_step(model: Glow, shape: Shape) -> Callable[[], None]:
    """Return a training step of ours."""
    x, keys = images(shape), np.arange(shape.batch, dtype=np.uint64)
    return step_of(model, lambda: -model.log_prob(x, keys=keys).mean())


def normflows_glow(shape: Shape) -> nn.Module:
    """Return the Glow of normflows with the same levels, steps and channels."""
    normflows = library()
    latents = list(reversed(our_glow(shape).latent_shapes))  # normflows counts levels from the deepest
    priors, flows, merges = [], [], []
    for level, (channels, height, width) in enumerate(latents):
        inner = channels if level == 0 else 2 * channels
        blocks = [
            normflows.flows.GlowBlock(inner, shape.hidden, use_lu=shape.permutation == "lu") for _ in range(shape.steps)
        ]
        flows.append([*blocks, normflows.flows.Squeeze()])
        priors.append(normflows.distributions.DiagGaussian((channels, height, width)))
        if level > 0:
            merges.append(normflows.flows.Merge())
    model: nn.Module = normflows.MultiscaleFlow(priors, flows, merges, class_cond=False)
    return model


def normflows_step(model: Any, shape: Shape) -> Callable[[], None]:
    """Return a training step of normflows."""
    x = images(shape)
    return step_of(model, lambda: -model.log_prob((x + torch.rand(x.shape)) / 256 - 0.5, None).mean())


def step_of(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a step of Adam on a loss."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def library() -> Any:
    """Return normflows."""
    try:
        import normflows
    except ImportError:
        sys.exit("this benchmark needs normflows: pip install -c constraints.txt -e '.[bench]'")
    return normflows


def normflows_version() -> str:
    """Return the version of normflows."""
    from importlib.metadata import version

    return version("normflows")


def where_time_goes(shape: Shape) -> str:
    """Return the dearest operations of a step of ours."""
    run = our_step(our_glow(shape), shape)
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        seconds(run, 3)
    return str(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


if __name__ == "__main__":
    main()
