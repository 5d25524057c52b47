from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fisherscope.core.errors import ModelError
from fisherscope.models import zoo
from fisherscope.models.base import load_model, make_model, model_fingerprint


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "zoo"
    for name, family in (("glow-digits", "glow"), ("vae-digits", "vae")):
        make_model(family, data_shape=(1, 8, 8), hidden=4).save(root / name, dtype=torch.float16)
    monkeypatch.setattr(zoo, "zoo_root", lambda: root)
    return root


def test_a_name_is_a_model(root: Path) -> None:
    model = load_model("zoo:vae-digits")
    assert model.family == "vae" and next(model.parameters()).dtype == torch.float32
    assert load_model("zoo:vae-digits", settings={"importance_samples": 3}).config()["importance_samples"] == 3


def test_the_list(root: Path) -> None:
    entries = zoo.zoo_entries()
    assert [e.name for e in entries] == ["zoo:glow-digits", "zoo:vae-digits"]
    model = load_model(entries[1].name)
    assert entries[1].parameters == sum(v.numel() for v in model.state_dict().values())
    assert entries[1].fingerprint == model_fingerprint(model)
    assert entries[1].bytes == sum(f.stat().st_size for f in (root / "vae-digits").iterdir())


@pytest.mark.parametrize("name", ["zoo:gan-digits", "zoo:", "zoo:..", "zoo:../zoo/vae-digits", "zoo:vae-digits/.."])
def test_an_unknown_name(root: Path, name: str) -> None:
    with pytest.raises(ModelError, match="is not in the zoo; the zoo: zoo:glow-digits, zoo:vae-digits"):
        load_model(name)


def test_every_model_that_ships_is_small_and_loads() -> None:
    entries = zoo.zoo_entries()
    assert all(e.bytes < 6 * 2**20 for e in entries)
    for entry in entries:
        model = load_model(entry.name)
        assert entry.name.startswith(f"zoo:{model.family}-") and "validation" in entry.card.bits_per_dim
        assert model.train_keys is not None
