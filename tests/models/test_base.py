from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.models import base
from fisherscope.models.base import (
    ModelCard,
    load_model,
    make_model,
    model_fingerprint,
    require_not_trained_on,
)
from fisherscope.models.glow import Glow

X = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def model() -> Glow:
    model = Glow((1, 8, 8), steps=2, hidden=4, permutation="lu", init_seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    model.card = ModelCard(name="tiny", data="noise", steps=7, bits_per_dim={"validation": 4.5})
    model.train_keys = np.array([2**64 - 1, 5, 9], dtype=np.uint64)
    return model.eval()


@pytest.fixture
def folder(model: Glow, tmp_path: Path) -> Path:
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_save_and_load_are_bit_equal(model: Glow, folder: Path) -> None:
    loaded = load_model(folder)
    assert isinstance(loaded, Glow) and not loaded.training
    assert loaded.config() == model.config() and loaded.card == model.card
    assert np.array_equal(loaded.train_keys, model.train_keys) and loaded.train_keys.dtype == np.uint64
    assert torch.equal(loaded.log_prob(X), model.log_prob(X))
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors", "train_keys.safetensors"]


def test_a_new_process_computes_the_same_bits(model: Glow, folder: Path) -> None:
    code = (
        "import sys, torch; from fisherscope.models.base import load_model;"
        "x = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8);"
        "print([v.hex() for v in load_model(sys.argv[1], dtype=torch.float64).log_prob(x).tolist()])"
    )
    command = [sys.executable, "-c", code, str(folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str([v.hex() for v in model.double().log_prob(X).tolist()])


def test_a_float64_model_loads_to_the_bit(model: Glow, tmp_path: Path) -> None:
    fine = model.double()
    with torch.no_grad():
        for p in fine.parameters():
            p += 1e-12
    fine.save(tmp_path / "fine")
    loaded = load_model(tmp_path / "fine", dtype=torch.float64)
    assert torch.equal(loaded.log_prob(X), fine.log_prob(X))
    assert load_model(tmp_path / "fine").log_prob(X).dtype == torch.float32


def test_a_fingerprint_is_computed_again_once_the_model_has_changed(
    model: Glow, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    whole = base.fingerprint_arrays
    monkeypatch.setattr(base, "fingerprint_arrays", lambda *args: computed.append(1) or whole(*args))
    first, parameter = model_fingerprint(model), next(model.parameters())
    before = parameter.detach().clone()
    assert model_fingerprint(model) == first and len(computed) == 1
    with torch.no_grad():
        parameter.view(-1)[-1] += 1
    changed = model_fingerprint(model)
    assert changed != first
    parameter.data.copy_(before)
    assert model_fingerprint(model) == first
    parameter.data = before + 1
    assert model_fingerprint(model) not in (first, changed)
    parameter.data = before
    assert model_fingerprint(model) == first
    monkeypatch.setattr(model, "config", lambda: {"steps": 9})
    assert model_fingerprint(model) != first
    assert len(computed) == 6


def test_half_precision_storage(model: Glow, tmp_path: Path, folder: Path) -> None:
    model.save(tmp_path / "half", dtype=torch.float16)
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, tmp_path / "half")]
    assert sizes[1] < 0.75 * sizes[0]
    loaded = load_model(tmp_path / "half")
    assert next(loaded.parameters()).dtype == torch.float32
    stored = {k: v.half().float() for k, v in model.state_dict().items()}
    assert all(torch.equal(v, stored[k]) for k, v in loaded.state_dict().items())
    assert torch.allclose(loaded.log_prob(X), model.log_prob(X), rtol=1e-2)
    loaded.save(tmp_path / "again")
    assert model_fingerprint(load_model(tmp_path / "again")) == model_fingerprint(loaded)
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    with pytest.raises(ModelError, match=r"float16 cannot hold .*scales\.0"):
        model.save(tmp_path / "overflow", dtype=torch.float16)
    assert not (tmp_path / "overflow" / "model.safetensors").exists()


def test_fingerprint(model: Glow) -> None:
    before = model_fingerprint(model)
    assert len(before) == 32 and int(before, 16) >= 0
    assert model_fingerprint(model.double()) == before == model_fingerprint(model.float())
    with torch.no_grad():
        list(model.parameters())[-1].view(-1)[0] += 1e-3
    assert model_fingerprint(model) != before
    assert model_fingerprint(Glow((1, 8, 8), steps=2, hidden=4)) != model_fingerprint(
        Glow((1, 8, 8), steps=2, hidden=4, init_seed=1)
    )


def test_a_plain_module_has_a_fingerprint() -> None:
    layer = torch.nn.Linear(2, 3)
    before = model_fingerprint(layer)
    assert model_fingerprint(layer.double()) == before
    assert model_fingerprint(layer.bfloat16()) == model_fingerprint(layer.float())
    before = model_fingerprint(layer)
    with torch.no_grad():
        layer.weight += 1
    assert model_fingerprint(layer) != before


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_a_truncated_checkpoint(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated"):
        load_model(folder)


def test_weights_of_another_model(model: Glow, folder: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p *= 1.5
    model.save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors does not belong to model\.json"):
        load_model(folder)
    Glow((1, 8, 8), steps=1, hidden=4).save(tmp_path / "small")
    (tmp_path / "small" / "model.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"does not fit its model\.json"):
        load_model(folder)


def edit(folder: Path, **changes: object) -> None:
    head = json.loads((folder / "model.json").read_text())
    for name, value in changes.items():
        head.pop(name) if value is None else head.update({name: value})
    (folder / "model.json").write_text(json.dumps(head))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format_version": 99}, CardMismatchError, "format_version"),
        ({"family": "gan"}, SettingError, "unknown model family 'gan'; known families: .*glow"),
        ({"config": {"depth": 3}}, ModelError, r"model\.json .*depth"),
        ({"family": None}, ModelError, r"model\.json .*family"),
        ({"fingerprint": None}, ModelError, r"model\.json .*fingerprint"),
        ({"config": [1]}, ModelError, r"model\.json .*config"),
        ({"card": "none"}, ModelError, r"model\.json .*card"),
    ],
)
def test_a_damaged_head(folder: Path, changes: dict[str, object], error: type[Exception], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(error, match=message):
        load_model(folder)


def test_heads_that_are_no_heads(folder: Path, tmp_path: Path) -> None:
    (folder / "model.json").write_text("[1, 2")
    with pytest.raises(ModelError, match="not readable JSON"):
        load_model(folder)
    (folder / "model.json").write_text("[1, 2]")
    with pytest.raises(ModelError, match=r"model\.json"):
        load_model(folder)
    with pytest.raises(ModelError, match="is not a saved model"):
        load_model(tmp_path)


def test_a_missing_or_truncated_file(folder: Path) -> None:
    (folder / "train_keys.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="train_keys"):
        load_model(folder)
    (folder / "train_keys.safetensors").unlink()
    assert load_model(folder).train_keys is None
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="does not exist"):
        load_model(folder)


def test_saving_over_a_model_with_keys_forgets_them(model: Glow, folder: Path) -> None:
    model.train_keys = None
    model.save(folder)
    assert load_model(folder).train_keys is None


def test_a_model_with_nan_is_not_saved(model: Glow, tmp_path: Path) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or inf"):
        model.save(tmp_path / "broken")


def test_settings_that_leave_the_parameters_alone(tmp_path: Path) -> None:
    vae = make_model("vae", data_shape=(1, 8, 8), latents=4, hidden=4)
    vae.train_keys = np.array([4], dtype=np.uint64)
    vae.save(tmp_path / "vae")
    changed = load_model(tmp_path / "vae", settings={"importance_samples": 5})
    assert changed.config() == vae.config() | {"importance_samples": 5}
    assert all(torch.equal(v, vae.state_dict()[k]) for k, v in changed.state_dict().items())
    assert changed.train_keys == vae.train_keys and model_fingerprint(changed) != model_fingerprint(vae)
    with pytest.raises(SettingError, match="latents cannot be changed after training"):
        load_model(tmp_path / "vae", settings={"latents": 5})
    with pytest.raises(SettingError, match="vae has no setting draws"):
        load_model(tmp_path / "vae", settings={"draws": 5})


def test_make_model() -> None:
    assert make_model("glow", data_shape=(1, 8, 8), steps=1).config()["steps"] == 1
    with pytest.raises(SettingError, match="known families"):
        make_model("glo")
    with pytest.raises(SettingError, match=r"glow has no setting width"):
        make_model("glow", width=3)


def test_training_samples_are_recognised(model: Glow) -> None:
    require_not_trained_on(model, np.array([[1, 2], [3, 4]], dtype=np.uint64), "fit")
    with pytest.raises(DataError, match="1 of 4 samples given to fit"):
        require_not_trained_on(model, np.array([[1, 9], [3, 4]], dtype=np.uint64), "fit")
    model.train_keys = None
    require_not_trained_on(model, np.array([9], dtype=np.uint64), "fit")


def test_a_family_of_ones_own_is_loaded_by_its_class(tmp_path: Path) -> None:
    class Own(Glow):
        family = "own"

    Own((1, 4, 4), levels=1, steps=1, hidden=4).save(tmp_path / "m")
    with pytest.raises(
        SettingError, match=r"unknown model family 'own'; .* one of your own: .* load_model\(folder, family=Class\)"
    ):
        load_model(tmp_path / "m")
    with pytest.raises(ModelError, match="holds a model of family 'own', Glow is 'glow'"):
        load_model(tmp_path / "m", family=Glow)
    assert type(load_model(tmp_path / "m", family=Own)) is Own
