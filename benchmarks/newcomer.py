"""Walk a newcomer's path in a fresh clone and write docs/newcomer.md: what to type, what comes out, how long it takes.

Command: python benchmarks/newcomer.py [--data-root DIR]
The clone is of the last commit. Without a folder of named sets the figure of the paper is left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from skimage import data

from fisherscope.core.store import write_atomic

ROOT: Final = Path(__file__).parents[1]
PICTURES: Final = {"good": ("brick", "grass", "gravel"), "incoming": ("camera", "moon", "coins")}
OWN_MODEL: Final = """\
import torch, fisherscope
model = torch.nn.Linear(4, 1)
def log_prob(model, x):
    return -(x[:, 4] - model(x[:, :4])[:, 0]).square() / 2
good, strange = torch.randn(1000, 5), torch.randn(3, 5) + torch.tensor([0, 0, 0, 0, 100])
guard = fisherscope.fit(model, good, log_prob=log_prob, fpr=0.01)
guard.save("runs/own")
print(fisherscope.load("runs/own", model, log_prob).predict(strange))
"""

HEAD: Final = """# A newcomer's path

Written by `{command}`; do not edit by hand. Walked from a fresh clone, command by command; the seconds are
wall-clock, on {machine}. After the first step type `. .venv/bin/activate`. `pictures/good/train`, `pictures/good/test`
and `pictures/incoming` are folders of PNG files of one's own (here 900, 300 and 120 crops of photographs in
scikit-image), DIR a folder of [named sets](data.md).

| step | what to type | what came out, last line | seconds |
|---|---|---|---:|
"""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        what: it does.
        shell: command line, in the clone.
        stdin: what it reads.
        shown: what the page says was typed, where that is not the command line.
    """

    what: str
    shell: str
    stdin: str | None = None
    shown: str = ""


def steps(data_root: str | None) -> list[Step]:
    """Return the path."""
    small, flow = "--resize 1x16x16", "--steps 300 --flow-steps 4 --hidden 16"
    path = [
        Step("set up and run the demo", "make demo"),
        Step(
            "train on a folder of pictures",
            f"fisherscope train glow --data 'pictures/good[train]' {small} {flow} --out runs/mine",
        ),
        Step(
            "guard it",
            f"fisherscope fit runs/mine --data 'pictures/good[test]' {small} --fpr 0.05 --out runs/guard",
        ),
        Step(
            "rank another folder",
            f"fisherscope rank runs/guard --data pictures/incoming {small} --top 20 --out runs/incoming.html",
        ),
        Step("guard a model of one's own", "python -", OWN_MODEL, "python -  # the Python block of the README"),
    ]
    if data_root is not None:
        path.append(Step("read Parquet sets", 'pip install -q -c constraints.txt -e ".[data]"'))
        figure = "fisherscope reproduce figure-likelihoods --family vae --id-datasets fashion_mnist,mnist --limit 500"
        path.append(
            Step("a figure of the paper", f"{figure} --data-root {data_root}", shown=f"{figure} --data-root DIR")
        )
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Walk and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("FISHERSCOPE_DATA"), help="folder of named sets")
    options = parser.parse_args(arguments)
    rows, total = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "fisherscope"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        write_pictures(clone / "pictures")
        root = options.data_root and str(Path(options.data_root).resolve())
        for step in steps(root):
            started = time.monotonic()
            printed = walk(step, clone)
            seconds = time.monotonic() - started
            total += seconds
            typed = step.shown or step.shell
            shown = f"`{printed}`" if printed else ""
            rows.append(f"| {step.what} | `{typed}` | {shown} | {seconds:.0f} |\n")
            print(rows[-1], end="", flush=True)
    command = "python benchmarks/newcomer.py"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    page = HEAD.format(command=command, machine=machine) + "".join(rows) + f"| in all | | | {total:.0f} |\n"
    write_atomic(ROOT / "docs" / "newcomer.md", page.encode())


def walk(step: Step, clone: Path) -> str:
    """Run one step in the clone and return the last line that it printed."""
    environment = {**os.environ, "PATH": os.pathsep.join([str(clone / ".venv" / "bin"), os.environ["PATH"]])}
    environment.pop("FISHERSCOPE_DATA", None)
    done = subprocess.run(
        ["bash", "-fc", step.shell],
        cwd=clone,
        env=environment,
        input=step.stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{step.shell} failed:\n{done.stdout}\n{done.stderr}")
    lines = done.stdout.strip().splitlines() or [""]
    return lines[-1].replace("|", "/").replace(str(clone) + "/", "")


def write_pictures(folder: Path) -> None:
    """Write crops of public-domain photographs that ship with scikit-image, as a folder of PNG files."""
    rng = np.random.default_rng(0)
    for name, photographs in PICTURES.items():
        for split, count in (("train", 300), ("test", 100)) if name == "good" else ((".", 40),):
            place = folder / name / split
            place.mkdir(parents=True, exist_ok=True)
            for photograph in photographs:
                picture = getattr(data, photograph)()
                middle = picture.shape[1] // 2
                # the two splits share no pixel
                first, last = {"train": (0, middle), "test": (middle, 2 * middle), ".": (0, 2 * middle)}[split]
                for i in range(count):
                    top, left = int(rng.integers(0, len(picture) - 32)), int(rng.integers(first, last - 32))
                    crop = Image.fromarray(picture[top : top + 32, left : left + 32])
                    crop.save(place / f"{photograph}-{i:03d}.png")


if __name__ == "__main__":
    main()
