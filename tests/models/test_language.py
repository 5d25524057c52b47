from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fisherscope.core.errors import SettingError
from fisherscope.core.keys import sample_keys
from fisherscope.data.texts import byte_windows
from fisherscope.models.language import ByteTransformer
from fisherscope.models.training import TrainingSet, TrainSettings, train


def test_a_text_is_learnt(tmp_path: Path) -> None:
    x = byte_windows(b"the cat sat on the mat. " * 60, 12, stride=5)
    model = ByteTransformer((12,), width=16, layers=1, heads=2)
    settings = TrainSettings(steps=200, batch_size=16, learning_rate=1e-2, validation_fraction=0.1)
    train(model, TrainingSet(x, sample_keys(x), "cats"), settings, tmp_path / "m")
    good, bad = (torch.frombuffer(bytearray(t), dtype=torch.uint8)[None] for t in (b"the cat sat ", b"tac eht tas "))
    assert model.log_prob(good) > model.log_prob(bad) + 10
    assert model.card.bits_per_dim["validation"] < 1.5
    assert b"at" in model.sample(4).numpy().tobytes()


def test_samples_follow_the_first_conditional() -> None:
    model = ByteTransformer((1,), width=8, layers=1, heads=1)
    with torch.no_grad():
        model.head.bias.copy_(torch.linspace(-4, 0, 256))
    drawn = model.sample(4000)[:, 0].numpy()
    levels = torch.arange(256, dtype=torch.uint8)[:, None]
    cdf = model.log_prob(levels).exp().detach().numpy().cumsum()
    empirical = np.searchsorted(np.sort(drawn), np.arange(256), side="right") / len(drawn)
    assert np.abs(empirical - cdf).max() < 1.63 / np.sqrt(len(drawn))


@pytest.mark.parametrize("arguments", [{"data_shape": (2, 2)}, {"width": 9, "heads": 2}, {"layers": 0}])
def test_bad_settings(arguments: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        ByteTransformer(**arguments)  # type: ignore[arg-type]
