from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.models.base import load_model
from fisherscope.models.schedule import make_schedule

diffusers = pytest.importorskip("diffusers", reason="needs fisherscope[diffusers]")
from fisherscope.models.adapters.diffusers import DiffusersModel  # noqa: E402

X = torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def unet() -> torch.nn.Module:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
    ).eval()


def pipeline(folder: Path, **scheduler: object) -> Path:
    made = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(**scheduler))
    made.save_pretrained(folder)
    return folder


def test_a_saved_pipeline_is_a_model(tmp_path: Path) -> None:
    model = load_model(pipeline(tmp_path / "p"), settings={"timesteps": (7,), "weight": "l2"})
    assert isinstance(model, DiffusersModel) and model.data_shape == (1, 8, 8) and not model.training
    eps, abar = torch.randn(3, 1, 8, 8), model.schedule.abar[7]
    noisy = abar**0.5 * (X / 127.5 - 1) + (1 - abar) ** 0.5 * eps
    with torch.no_grad():
        assert torch.equal(model.denoiser.predict(noisy, torch.full((3,), 7.0)), unet()(noisy, 6).sample)
    assert np.allclose(model.schedule.abar, make_schedule("linear", 1000).abar, rtol=1e-4)
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m", settings={"timesteps": (7, 9)})
    assert again.config()["timesteps"] == [7, 9]
    assert torch.equal(load_model(tmp_path / "m").log_prob(X), model.log_prob(X))


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_every_prediction_is_turned_into_noise(prediction: str) -> None:
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction)
    model = DiffusersModel.from_modules(unet(), scheduler)
    clean, eps = torch.rand(2, 1, 8, 8) * 2 - 1, torch.randn(2, 1, 8, 8)
    noisy = scheduler.add_noise(clean, eps, torch.tensor([40, 40]))
    target = clean if prediction == "sample" else scheduler.get_velocity(clean, eps, torch.tensor([40, 40]))
    model.unet.forward = lambda sample, t: type("Out", (), {"sample": target})
    assert torch.allclose(model.denoiser.predict(noisy, torch.tensor([41.0, 41.0])), eps, atol=1e-4)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "p")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match="no DDPM pipeline with safetensors"):
        load_model(folder)


def test_what_cannot_be_used(tmp_path: Path) -> None:
    config = dict(unet().config)
    with pytest.raises(ModelError, match="predicts a variance too"):
        DiffusersModel(config | {"out_channels": 2}, {})
    with pytest.raises(SettingError, match="1 to 50"):
        DiffusersModel(config, {"num_train_timesteps": 50})
