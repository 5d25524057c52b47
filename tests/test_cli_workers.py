"""Several processes on one command, over gloo."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fisherscope.core.errors import DataError, SettingError
from fisherscope.core.table import FeatureTable
from fisherscope.data import load_samples
from fisherscope.models.base import load_model
from fisherscope.models.training.workers import Workers
from fisherscope.pipeline import extraction
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.extraction import ExtractSettings, extract_table
from fisherscope.pipeline.target import Target, load_target

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def two_processes(*arguments, folder):
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "fisherscope", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_train_and_extract_what_one_does(tmp_path):
    small = ("--steps", 3, "--batch-size", 8, "--flow-steps", 1, "--hidden", 4)
    printed = two_processes("train", "glow", "--data", "digits", *small, "--out", "glow", folder=tmp_path)
    assert printed.count("glow after 3 steps") == 1 and load_model(tmp_path / "glow").card.steps == 3
    out = tmp_path / "two.safetensors"
    options = ("--group-size", 2, "--dtype", "float64", "--out", out)
    printed = two_processes("extract", "glow", "--data", "digits", *options, folder=tmp_path)
    assert printed.count("299 groups of 2") == 1
    assert not out.with_name(out.name + ".parts").exists()
    two, target = FeatureTable.load(out), load_target(tmp_path / "glow", dtype="float64")
    one = extract_table(target, as_batches(load_samples("digits"), target), two.blocks, ExtractSettings(2))
    assert one.ids == two.ids and one.card == two.card and np.array_equal(one.keys, two.keys)
    for name in one.blocks:
        np.testing.assert_allclose(two.block(name), one.block(name), rtol=1e-12)


def test_each_process_takes_its_share_and_the_first_joins(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(extraction, "BATCH", 64)
    model = torch.nn.Linear(3, 1)
    target = Target(model, lambda m, x: -m(x)[:, 0].square(), "linear")
    data = as_batches(torch.randn(64 * 8 * 3 + 5, 3))
    out, waited = tmp_path / "t.safetensors", []

    def make(rank):
        team = Workers(rank, 2, torch.device("cpu"))
        monkeypatch.setattr(Workers, "wait", lambda self: waited.append(len(list(parts.iterdir()))))
        return extract_table(target, data, ("grad_norm",), out=out, team=team)

    parts = tmp_path / "t.safetensors.parts"
    with pytest.raises(DataError, match="does not exist"):  # nobody has joined the parts yet
        make(1)
    assert waited == [2, 2] and {p.name for p in parts.iterdir()} == {"00000512.safetensors", "00001536.safetensors"}
    monkeypatch.setattr(Workers, "wait", lambda self: waited.append(-1))
    table = extract_table(target, data, ("grad_norm",), out=out, team=Workers(0, 2, torch.device("cpu")))
    assert not parts.exists() and len(table) == len(data)
    np.testing.assert_allclose(
        table.block("grad_norm"), extract_table(target, data, ("grad_norm",)).block("grad_norm"), rtol=1e-6
    )


def test_processes_need_a_file_to_meet_in():
    target = Target(torch.nn.Linear(3, 1), lambda m, x: -m(x)[:, 0].square(), "linear")
    with pytest.raises(SettingError, match="2 processes cannot make a table in memory together"):
        extract_table(target, as_batches(torch.randn(4, 3)), team=Workers(0, 2, torch.device("cpu")))
