"""What a training writes on its way: the checkpoint and the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fisherscope.core.errors import ModelError
from fisherscope.core.store import write_atomic


def write_checkpoint(path: Path, head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, atomically."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomic(path, save(plain, metadata={"head": json.dumps(head)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint; a truncated or foreign file is a :class:`ModelError`."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return json.loads((file.metadata() or {})["head"]), tensors
    except (SafetensorError, OSError, KeyError, ValueError) as cause:
        raise ModelError(f"{path} is truncated or no training checkpoint ({cause}); train again") from None


def append_metrics(path: Path, record: Mapping[str, float | int | None]) -> None:
    """Append one line to the metrics file, a JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """Return the metrics of a training, in order: step, seconds, bits_per_dim and, where measured, validation.

    Args:
        folder: the model's folder. A line cut short by a crash is left out; without the file the list is empty.
    """
    path = Path(folder) / "training" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def drop_metrics_after(folder: Path, step: int) -> None:
    """Rewrite the metrics of a folder without the steps after ``step``, which are about to be taken again."""
    kept = [json.dumps(record) + "\n" for record in read_metrics(folder) if record["step"] <= step]
    write_atomic(folder / "training" / "metrics.jsonl", "".join(kept).encode())
