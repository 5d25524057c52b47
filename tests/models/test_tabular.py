from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.models.tabular import TabularFlow
from fisherscope.models.training import TrainingSet, TrainSettings, bits_per_dim, train

pytest.importorskip("zuko", reason="needs fisherscope[flows]")


def rows(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 2))
    return (np.stack([1000 + 50 * z[:, 0], 0.01 * (z[:, 0] + 0.5 * z[:, 1])], axis=1)).astype(np.float32)


def test_it_learns_a_normal_in_its_own_units(tmp_path: Path) -> None:
    x = rows(2000)
    model = TabularFlow((2,), flow="MAF", transforms=1, hidden=(8,))
    settings = TrainSettings(steps=250, batch_size=256, learning_rate=1e-2)
    train(model, TrainingSet(x, sample_keys(x), "rows"), settings, tmp_path / "m")
    held_out = rows(2000, seed=1)
    # determinant of the covariance: (50 * 0.01 * 0.5) ** 2
    entropy = math.log(2 * math.pi * math.e) + math.log(50 * 0.01 * 0.5)
    bits = bits_per_dim(model, TrainingSet(held_out, sample_keys(held_out), "rows"))
    assert bits == pytest.approx(entropy / (2 * math.log(2)), abs=0.06)
    drawn = model.sample(4000)
    assert drawn[:, 0].mean().item() == pytest.approx(1000, abs=8)
    assert drawn[:, 0].std().item() == pytest.approx(50, rel=0.1)
    assert torch.corrcoef(drawn.T)[0, 1].item() == pytest.approx(1 / math.sqrt(1.25), abs=0.05)


def test_standardisation_is_a_change_of_units() -> None:
    model = TabularFlow((3,), transforms=1, hidden=(8,)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    before = model.log_prob(x)
    model.mean.fill_(2.0)
    model.scale.copy_(torch.tensor([1.0, 10.0, 0.1]))
    assert torch.allclose(model.log_prob(x * model.scale + 2), before - math.log(10 * 0.1))
    model.initialise(torch.cat([x[:, :2], torch.ones(5, 1, dtype=torch.float64)], dim=1))
    assert model.scale[2] == 1 and torch.allclose(model.scale[:2], x[:, :2].std(0))


@pytest.mark.parametrize("arguments", [{"data_shape": (1,)}, {"flow": "GF"}, {"transforms": 0}, {"hidden": ()}])
def test_bad_settings(arguments: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        TabularFlow(**arguments)  # type: ignore[arg-type]
