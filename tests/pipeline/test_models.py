from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fisherscope.config import TrainConfig, TrainingTable
from fisherscope.core.errors import DataError, ModelError, SettingError
from fisherscope.data import Samples
from fisherscope.models.base import load_model, make_model, model_fingerprint
from fisherscope.pipeline.models import model_info, write_samples
from fisherscope.pipeline.training import train_from_config, train_on, train_settings
from fisherscope.report.figures import mosaic


def test_info() -> None:
    model = make_model("glow", data_shape=(1, 4, 4), levels=1, steps=1, hidden=4)
    facts = model_info(model)
    assert facts["parameters"] == sum(int(np.prod(shape)) for shape in facts["layers"].values())
    assert facts["layers"]["scales.0.steps.0.permutation.weight"] == [4, 4]
    assert (facts["family"], facts["data_shape"], facts["train_samples"]) == ("glow", [1, 4, 4], None)
    assert facts["fingerprint"] == model_fingerprint(model)


def test_samples_become_files(tmp_path: Path) -> None:
    model = make_model("vae", data_shape=(1, 6, 5), hidden=4, latents=2)
    write_samples(model, tmp_path / "a.npy", count=4, seed=1)
    write_samples(model, tmp_path / "a.png", count=4, seed=1, scale=3)
    drawn = model.sample(4, seed=1).numpy()
    assert np.array_equal(np.load(tmp_path / "a.npy"), drawn)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (3 * 13, 3 * 11)
    assert np.array_equal(picture[::3, ::3], mosaic(drawn)[:, :, 0])
    language = make_model("language", data_shape=(4,), width=8, layers=1, heads=1)
    with pytest.raises(ModelError, match=r"write them to a \.npy file"):
        write_samples(language, tmp_path / "b.png")
    write_samples(language, tmp_path / "b.txt", count=3)
    assert (tmp_path / "b.txt").read_bytes() == b"".join(w.tobytes() + b"\n" for w in language.sample(3).numpy())
    write_samples(language, tmp_path / "b.csv", count=3)
    assert np.array_equal(np.loadtxt(tmp_path / "b.csv", delimiter=","), language.sample(3).numpy())
    with pytest.raises(ModelError, match=r"are no windows of bytes"):
        write_samples(model, tmp_path / "c.txt")
    with pytest.raises(SettingError, match=r"\.png, \.txt, \.csv, \.npy"):
        write_samples(model, tmp_path / "b.jpg")


def test_a_configuration_is_trained_and_stored_in_half_precision(tmp_path: Path) -> None:
    training = TrainingTable(steps=3, batch_size=8)
    base = {"family": "glow", "data": "digits", "limit": 60, "model": {"steps": 1, "hidden": 4}, "training": training}
    half = train_from_config(TrainConfig(**base, storage="float16"), tmp_path / "half")
    full = train_from_config(TrainConfig(**base), tmp_path / "full")
    assert model_fingerprint(load_model(tmp_path / "half")) == model_fingerprint(half) != model_fingerprint(full)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.8 * sizes[1]
    assert len(half.train_keys) == 60 and half.card.data == "digits[train]"
    assert not (tmp_path / "half/training/curve.png").exists()  # three steps log nothing


def test_a_training_leaves_its_curve(tmp_path: Path) -> None:
    training = TrainingTable(steps=4, batch_size=8, validate_every=2)
    for family, model in (("glow", {"steps": 1, "hidden": 4}), ("diffusion", {"channels": 16, "multipliers": (1,)})):
        config = TrainConfig(family=family, data="digits", limit=60, model=model, training=training)
        train_from_config(config, tmp_path / family)
    pictures = [np.asarray(Image.open(tmp_path / family / "training/curve.png")) for family in ("glow", "diffusion")]
    assert len(pictures[0]) < len(pictures[1])  # the diffusion's own loss has a panel of its own


def test_floats_that_are_no_levels_are_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((20, 1, 4, 4)).astype(np.float32)
    samples = Samples.from_array(x, [str(i) for i in range(20)], "unit")
    settings = train_settings(TrainingTable(steps=1, batch_size=4))
    with pytest.raises(DataError, match="give 8-bit levels"):
        train_on("glow", samples, settings, tmp_path / "m")
    rows = Samples.from_array(x.reshape(20, 16), [str(i) for i in range(20)], "rows")
    pytest.importorskip("zuko", reason="needs fisherscope[flows]")
    assert train_on("tabular", rows, settings, tmp_path / "t", config={"hidden": [4], "transforms": 1}).card.steps == 1
