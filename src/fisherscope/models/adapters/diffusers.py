"""Diffusion models of the diffusers library (extra ``diffusers``): a UNet2DModel with a DDPM scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fisherscope.core.errors import ModelError
from fisherscope.models.denoising import Denoiser, Objective, Weight
from fisherscope.models.denoising_model import DenoisingModel
from fisherscope.models.initial import initial_seed
from fisherscope.models.schedule import Schedule


def _library() -> Any:
    try:
        import diffusers
    except ImportError:
        raise ModelError("this model needs the diffusers library; install fisherscope[diffusers]") from None
    return diffusers


class DiffusersModel(DenoisingModel):
    """An unconditional UNet2DModel over images in [-1, 1], as in a DDPMPipeline.

    Args:
        unet: configuration of the UNet2DModel.
        scheduler: configuration of the DDPMScheduler; epsilon, sample and v_prediction are understood.
        timesteps: 1..T (the library's own count starts at 0); None for an estimate of the whole bound.
        weight: ``bound``, ``l2`` or ``l1``.
        draws: noise draws to average.
        init_seed: seed of the initial weights.
    """

    family: ClassVar[str] = "diffusers"

    def __init__(
        self,
        unet: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        timesteps: Sequence[int] | None = (4, 16, 64, 256),
        weight: Weight = "bound",
        draws: int = 1,
        init_seed: int = 0,
    ) -> None:
        library = _library()
        with initial_seed(init_seed):
            net = library.UNet2DModel.from_config(_plain(unet))
        size = net.config.sample_size
        if size is None or net.config.in_channels != net.config.out_channels:
            raise ModelError("the UNet2DModel has no sample_size, or predicts a variance too; neither is understood")
        sides = (size, size) if isinstance(size, int) else tuple(size)
        super().__init__((net.config.in_channels, *sides), (0.0, 255.0))
        self.unet = net
        process = library.DDPMScheduler.from_config(_plain(scheduler))
        self.prediction = process.config.prediction_type
        self.schedule = Schedule(np.concatenate([[1.0], process.alphas_cumprod.double().numpy()]))
        chosen = None if timesteps is None else tuple(timesteps)
        self.objective = Objective(chosen, weight, draws).check(self.schedule.steps)
        self._config = {
            "unet": _plain(unet),
            "scheduler": _plain(scheduler),
            "timesteps": None if timesteps is None else list(timesteps),
            "weight": weight,
            "draws": draws,
            "init_seed": init_seed,
        }

    @classmethod
    def from_modules(cls, unet: Any, scheduler: Any, **objective: Any) -> DiffusersModel:
        """Return the model of a UNet2DModel and a scheduler; ``objective`` are timesteps, weight, draws."""
        model = cls(dict(unet.config), dict(scheduler.config), **objective)
        model.unet.load_state_dict(unet.state_dict())
        return model.eval()

    @classmethod
    def from_pipeline(cls, folder: str | Path, **objective: Any) -> DiffusersModel:
        """Return the model of a saved DDPMPipeline folder, whose weights must be safetensors; no pickle is read."""
        library, folder = _library(), Path(folder)
        try:
            # Without low_cpu_mem_usage it asks for no accelerate.
            unet = library.UNet2DModel.from_pretrained(
                folder / "unet", use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
            scheduler = library.DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        except (OSError, ValueError, RuntimeError) as cause:
            raise ModelError(f"{folder} is no DDPM pipeline with safetensors: {str(cause).splitlines()[0]}") from None
        return cls.from_modules(unet, scheduler, **objective)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    @property
    def denoiser(self) -> Denoiser:
        """The noise predictor with its schedule."""
        return Denoiser(self._noise, self.schedule, self.data_shape)

    def _noise(self, noisy: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.unet(noisy, t - 1).sample
        if self.prediction == "epsilon":
            return out
        abar = torch.from_numpy(self.schedule.abar).to(noisy)[t.long()][:, None, None, None]
        if self.prediction == "v_prediction":
            return abar.sqrt() * out + (1 - abar).sqrt() * noisy
        return (noisy - abar.sqrt() * out) / (1 - abar).sqrt()


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items() if not k.startswith("_")}
