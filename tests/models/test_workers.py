from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fisherscope.core.errors import SettingError
from fisherscope.models.base import load_model
from fisherscope.models.glow import Glow
from fisherscope.models.training import TrainingSet, TrainSettings
from fisherscope.models.training.trainer import Trainer
from fisherscope.models.training.workers import Workers

SCRIPT = """
import json, sys, numpy as np, torch
from pathlib import Path
from fisherscope.core.keys import sample_keys
from fisherscope.models.base import make_model
from fisherscope.models.training import TrainingSet, TrainSettings, train
torch.set_num_threads(1)
rng = np.random.default_rng(0)
x = rng.integers(0, 256, (40, 1, 4, 4)).astype(np.uint8)
settings = TrainSettings(steps=int(sys.argv[2]), batch_size=int(sys.argv[3]), validate_every=4, validation_fraction=0.2)
family, config = json.loads(sys.argv[4])
model = make_model(family, data_shape=(1, 4, 4), **config).double()
train(model, TrainingSet(x, sample_keys(x), "noise"), settings, sys.argv[1], resume=len(sys.argv) > 5)
left = [t.name for t in Path("/proc/self/task").glob("*/comm") if "gloo" in t.read_text()]
assert not left, "threads of the group outlive it"
"""
GLOW = ("glow", {"steps": 2, "hidden": 4})
DIFFUSION = ("diffusion", {"channels": 16, "multipliers": [1], "diffusion_steps": 20, "timesteps": [2]})


def run(folder: Path, steps: int, batch: int = 8, processes: int = 2, resume: bool = False, model: Any = GLOW) -> str:
    launcher = [sys.executable, "-W", "ignore"]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    options = [str(folder), str(steps), str(batch), json.dumps(model), *(["--resume"] if resume else [])]
    command = [*launcher, str(script), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("model", [GLOW, DIFFUSION], ids=lambda model: model[0])
def test_two_processes_train_the_model_of_one(model: Any, tmp_path: Path) -> None:
    assert run(tmp_path / "one", 8, processes=1, model=model) == ""
    assert run(tmp_path / "two", 5, model=model) == ""
    assert run(tmp_path / "two", 8, resume=True, model=model) == ""
    one, two = (load_model(tmp_path / name, dtype=torch.float64) for name in ("one", "two"))
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-11), name
    assert one.card.bits_per_dim == pytest.approx(two.card.bits_per_dim, abs=1e-4)
    lines = (tmp_path / "two/training/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_a_batch_that_cannot_be_shared(tmp_path: Path) -> None:
    x = np.zeros((40, 1, 4, 4), dtype=np.uint8)
    data = TrainingSet(x, np.arange(40, dtype=np.uint64), "zeros")
    settings, team = TrainSettings(steps=1, batch_size=7), Workers(0, 2, torch.device("cpu"))
    with pytest.raises(SettingError, match="a batch of 7 cannot be shared evenly by 2 processes"):
        Trainer(Glow((1, 4, 4), steps=1, hidden=4), data, settings, tmp_path, team)
