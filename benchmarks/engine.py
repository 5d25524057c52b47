"""Time and memory of per-sample gradient features, over one ordinary batched forward and backward pass.

python benchmarks/engine.py            the whole table, written to docs/performance.md
python benchmarks/engine.py --out PAGE the same, say of another machine
python benchmarks/engine.py --quick    ours alone, printed
Ratios are medians over rounds in which every method runs once, so that drift of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_models import CASES
from torch import Tensor, nn

from fisherscope.features.gradients import gradient_norms, gradient_sketch
from fisherscope.features.gradients.uses import Passes

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
RIVALS = ("loop", "vmap", "vmap, chunks of 8", "opacus hooks", "opacus ghost")
OURS = ("norms", "norms, groups of 5", "sketch")
BASES = ("base", "base, groups of 5")
UNCHECKED_FROM = 32
"""After so many calls no check of the engine's falls in the next thirty."""
SEEN, FIRST = 16, 100
"""Calls that are timed for the price of checks, and those over which it is spread."""
Run = Callable[[], dict[str, Tensor] | None]

GOALS_OF_ALL = {"norms": 1.3, "norms, groups of 5": 1.3, "norms, memory": 1.4, "sketch, memory": 1.4}
GOALS_OF_SOME = {
    "Glow, hidden 48": {"sketch": 1.1},
    "Glow, hidden 128": {"sketch": 1.0},
    "LU Glow, hidden 48": {"norms": 1.4},
    "conv VAE": {"sketch": 1.0},
    "gated PixelCNN": {"norms": 1.15, "sketch": 1.0},
    "UNet, attention": {"norms": 1.15, "sketch": 1.0},
}
GOALS = {case: GOALS_OF_ALL | GOALS_OF_SOME.get(case, {}) for case in CASES}
"""The highest ratios wanted: of time with 32 samples and one thread, of memory with 64."""


def methods(module: nn.Module, x: Tensor, names: tuple[str, ...]) -> dict[str, Run]:
    """Return the named ways to get features of x, after the ordinary pass ("base")."""
    keys = np.arange(len(x), dtype=np.uint64)
    fives = len(x) // 5 * 5
    found: dict[str, Run] = {
        "base": lambda: _ordinary(module, x),
        "base, groups of 5": lambda: _ordinary(module, x[:fives]),
        "loop": lambda: gradient_norms(module, x, keys=keys, method="loop"),
        "vmap": lambda: _vmap(module, x, None),
        "vmap, chunks of 8": lambda: _vmap(module, x, 8),
        "norms": lambda: gradient_norms(module, x, keys=keys),
        "norms, groups of 5": lambda: gradient_norms(module, x[:fives], keys=keys[:fives], group_size=5),
        "sketch": lambda: {"sketch": gradient_sketch(module, x, keys=keys)},
    }
    for name in set(names) & {"opacus hooks", "opacus ghost"}:
        found[name] = _opacus(module, x, ghost=name.endswith("ghost"))
    return {name: found[name] for name in dict.fromkeys(("base", *names))}


def _ordinary(module: nn.Module, x: Tensor) -> None:
    torch.autograd.grad(module.log_prob(x).sum(), list(module.parameters()), allow_unused=True)


def _vmap(module: nn.Module, x: Tensor, chunk: int | None) -> dict[str, Tensor]:
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def log_p(values: dict[str, Tensor], one: Tensor) -> Tensor:
        return torch.func.functional_call(
            _Wrapped(module), {f"module.{k}": v for k, v in values.items()}, (one[None],)
        )[0]

    gradients = torch.func.vmap(torch.func.grad(log_p), in_dims=(None, 0), chunk_size=chunk)(parameters, x)
    return {name: g.flatten(1).square().sum(1) for name, g in gradients.items()}


class _Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.log_prob(x)


def _opacus(module: nn.Module, x: Tensor, *, ghost: bool) -> Run:
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping

    if ghost:
        wrapped = GradSampleModuleFastGradientClipping(
            copy.deepcopy(module), max_grad_norm=1.0, use_ghost_clipping=True, strict=False, loss_reduction="sum"
        )
    else:
        wrapped = GradSampleModule(copy.deepcopy(module), strict=False, loss_reduction="sum")
    inner = wrapped._module
    wrapped.train()  # opacus records nothing in eval mode; no model here behaves differently

    def run() -> dict[str, Tensor]:
        wrapped.zero_grad()
        inner.log_prob(x).sum().backward()
        result = {}
        for name, p in inner.named_parameters():
            if ghost:
                norm = getattr(p, "_norm_sample", None)
                result[name] = None if norm is None else norm.square()
            else:
                sample = getattr(p, "grad_sample", None)
                result[name] = None if sample is None else sample.flatten(1).square().sum(1)
        return {k: v for k, v in result.items() if v is not None}

    return run


def timed(case: str, batch: int, threads: int, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Return for each method its ratio to "base" (or why it has none), its count of right tensors, base in ms."""
    torch.set_num_threads(threads)
    module, x = CASES[case].build(), CASES[case].batch(batch)
    exact = gradient_norms(module, x[:4], keys=np.arange(4, dtype=np.uint64), method="loop")
    result: dict[str, Any] = {"tensors": len(exact)}
    runs: dict[str, Run] = {}
    for name in (*BASES, *names):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = methods(module, x, (name,))[name]
                found = run()
            runs[name] = run
            if found and "sketch" not in found and "groups" not in name:
                result[f"{name}: right"] = _right(found, exact)
        except Exception as error:  # a rival that refuses is a result
            result[name] = f"refuses ({type(error).__name__})"
    for run in [runs[name] for name in OURS if name in runs] * -(-UNCHECKED_FROM // len(OURS)):
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            gc.collect()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    result["base ms"] = 1e3 * statistics.median(seconds["base"])
    for name in names:
        if name in runs:
            base = BASES["groups" in name]
            result[name] = statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))
    return result


def _right(found: dict[str, Tensor], exact: dict[str, Tensor]) -> int:
    floor = 1e-9 * sum(exact.values())
    good = 0
    for name, value in exact.items():
        if name in found and found[name].shape[0] >= 4:
            good += bool(((found[name][:4] - value).abs() <= 1e-2 * value + floor).all())
    return good


def peak(case: str, method: str, batch: int) -> float:
    """Return the peak memory of a method over that of the ordinary pass, each in a fresh process."""
    sizes = []
    for name in (method, "base"):
        command = [sys.executable, __file__, "--peak", case, name, str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes.append(json.loads(done.stdout))
    return sizes[0] / sizes[1]


def print_peak(case: str, method: str, batch: int) -> None:
    """Print how far one run of a method raises this process's peak resident set, in KiB."""
    torch.set_num_threads(1)
    module, x = CASES[case].build(), CASES[case].batch(batch)
    methods(module, x[:10], (method,))[method]()  # what is allocated once, the probe's memory included
    run = methods(module, x, (method,))[method]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    run()
    print(json.dumps(_status("VmHWM") - before))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def cell(value: object, right: object = None, tensors: int = 0) -> str:
    """Format one ratio; a method that gets tensors wrong says how many it gets right."""
    text = f"{value:.2f}" if isinstance(value, float) else str(value or "-")
    if isinstance(value, float) and right is not None and right != tensors:
        text += f" ({right}/{tensors} right)"
    return text


def first_calls(case: str) -> tuple[float, float]:
    """Return what the probe and, a call, the checks of the first hundred cost, over one ordinary pass of 32 samples."""
    torch.set_num_threads(1)
    module, x = CASES[case].build(), CASES[case].batch(32)
    runs = methods(module, x, ("norms",))
    runs["base"]()

    def seconds(name: str) -> float:
        start = time.perf_counter()
        runs[name]()
        return time.perf_counter() - start

    calls = {call: seconds("norms") for call in range(1, SEEN + 1)}
    base = statistics.median(seconds("base") for _ in range(5))
    kinds = checked_calls()
    plain = statistics.median(calls[call] for call in calls if call not in (1, *chain(*kinds)))
    checks = sum(len(kind) * (statistics.mean(calls[call] for call in kind if call <= SEEN) - plain) for kind in kinds)
    return (calls[1] - plain) / base, checks / FIRST / base


def checked_calls() -> tuple[list[int], list[int]]:
    """Return the calls after the first whose log p, and those whose gradients, the engine checks."""
    passes, quick, thorough = Passes(), list[int](), list[int]()
    passes.begin()
    for call in range(2, FIRST + 1):
        passes.begin()
        if passes.thorough:
            thorough.append(call)
        elif passes.quick:
            quick.append(call)
    return quick, thorough


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def processor() -> str:
    """Name the machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")


def versions() -> str:
    """Name the machine's kind and the versions."""
    import opacus

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{processor()}, {os.cpu_count()} cores, {device}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, opacus {opacus.__version__}; float32; {date.today().isoformat()}"
    )


def write_page(cases: list[str], rounds: int, command: str) -> str:
    """Measure everything; return the page."""
    main_rows, memory_rows, grid_rows = [], [], []
    missed: list[str] = []
    for case in cases:
        result = timed(case, 32, 1, RIVALS + OURS, rounds)
        n = result["tensors"]
        missed += missed_goals(case, result)
        main_rows.append(
            [case, f"{result['base ms']:.0f}"]
            + [cell(result.get(k), result.get(f"{k}: right"), n) for k in RIVALS + OURS]
        )
        print("|", " | ".join(main_rows[-1]), "|", flush=True)
        row = [case]
        for batch, threads in ((32, 2), (64, 1), (64, 2)):
            grid = timed(case, batch, threads, OURS, max(3, rounds // 2))
            row += [" / ".join(cell(grid.get(k)) for k in OURS)]
        grid_rows.append(row)
        print("|", " | ".join(row), "|", flush=True)
        peaks = {f"{k}, memory": peak(case, k, 64) for k in ("vmap", "norms", "sketch")}
        missed += missed_goals(case, peaks)
        memory_rows.append([case, *map(cell, peaks.values())])
        memory_rows[-1] += map(cell, first_calls(case))
        print("|", " | ".join(memory_rows[-1]), "|", flush=True)
    return TEMPLATE.format(
        command=command,
        cpu=processor(),
        versions=versions(),
        rounds=rounds,
        unchecked=UNCHECKED_FROM,
        missed="\n".join(missed) or "Nothing.",
        wanted=wanted(cases),
        main=table(["model", "base, ms", *RIVALS, *(f"**{k}**" for k in OURS)], main_rows),
        grid=table(["model", "32 samples, 2 threads", "64 samples, 1 thread", "64 samples, 2 threads"], grid_rows),
        memory=table(
            ["model", "vmap, memory", "**norms**, memory", "**sketch**, memory", "probe", "checks"], memory_rows
        ),
    )


def missed_goals(case: str, result: dict[str, Any]) -> list[str]:
    """Say which ratios, as they are printed, are above what is wanted."""
    return [
        f"- {case}: {name} {cell(result[name])}, wanted {cell(goal)}."
        for name, goal in GOALS[case].items()
        if name in result and round(result[name], 2) > goal
    ]


def wanted(cases: list[str]) -> str:
    """Return the table of goals."""
    names = [*OURS, "norms, memory", "sketch, memory"]
    return table(["model", *names], [[case, *(cell(GOALS[case].get(name)) for name in names)] for case in cases])


TEMPLATE = """# Performance of the gradient engine: {cpu}

Written by `{command}`; the models are in `benchmarks/engine_models.py`, with random weights.
{versions}.

What has changed in the engine since that day is in the CHANGELOG. Ratios depend on the machine: the faster it convolves
beside how it multiplies matrices, the higher they are. Every `performance-engine-*.md` beside
[performance.md](performance.md) is of another one.

All times are divided by ONE ordinary batched forward + backward pass of the same batch ("base"): medians over
{rounds} rounds in which every method runs once; groups of 5 are measured, base included, on the 30 or 60 samples
that fill whole groups. "right" counts the parameter tensors whose squared norms agree with
the plain loop to 1 %; a method without that note gets all of them. The first call on a model also probes it
(`features/gradients/plan.py`), and of the later ones some are compared with the loop (`verification.py`: gradients in
the tenth, hundredth, ..., log p in the second, fourth, eighth, ...). What either costs is in the last table; the rounds
come after {unchecked} calls, where no check falls among them.

## What is missed

{missed}

Wanted of time with 32 samples and 1 thread, and of memory with 64, at most:

{wanted}
## 32 samples, 1 thread

{main}
## Other sizes: norms / norms, groups of 5 / sketch

{grid}
## Peak memory, and the price of the first calls

Memory: growth of the peak resident set during a call with 64 samples in a fresh process, after one call with 10
samples, over that of base. Probe: what the first call on a model costs above later ones, over base of 32 samples.
Checks: what those of the second to the hundredth call add to the norms of a call in the mean, over base.

{memory}
On a GPU the engine is untested.
"""


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ours alone, printed, nothing written")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--out", type=Path, default=PAGE, help="where the page goes")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak[0], options.peak[1], int(options.peak[2]))
        return
    cases = options.case or list(CASES)
    if options.quick:
        for case in cases:
            result = timed(case, 32, 1, OURS, options.rounds)
            print(
                f"{case:20s} base {result['base ms']:6.1f} ms  " + "  ".join(f"{k} {cell(result[k])}" for k in OURS),
                flush=True,
            )
        return
    page = write_page(cases, options.rounds, shlex.join(["python", "benchmarks/engine.py", *sys.argv[1:]]))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(page)


if __name__ == "__main__":
    main()
