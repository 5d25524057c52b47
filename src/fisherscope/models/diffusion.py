"""Denoising diffusion (Ho et al. 2020, arXiv 2006.11239) with its objective as a setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fisherscope.core.errors import SettingError
from fisherscope.models.denoising import Denoiser, Objective, Weight
from fisherscope.models.denoising_model import DenoisingModel
from fisherscope.models.initial import initial_seed
from fisherscope.models.schedule import ScheduleName, make_schedule
from fisherscope.models.unet import UNet


class Diffusion(DenoisingModel):
    """DDPM with a compact UNet; ``log_prob`` is minus the objective that ``timesteps``, ``weight``, ``draws`` name.

    Args:
        data_shape: (C, H, W).
        channels: channels of the UNet at its first resolution, a multiple of 16 (8 groups of 2 or more).
        multipliers: channels of each resolution as multiples of ``channels``; each further one halves the size.
        heads: attention heads.
        patch: side of the squares of pixels that become channels before the UNet.
        diffusion_steps: T.
        schedule: ``linear`` or ``cosine``. The bound's weights of cosine explode towards T, where it leaves no signal:
            after the same training its bound is far looser.
        timesteps: 1..T, see :class:`~fisherscope.models.denoising.Objective`; None for an estimate of the whole bound.
        weight: ``bound``, ``l2`` or ``l1``.
        draws: noise draws to average.
        init_seed: seed of the initial weights.
    """

    family: ClassVar[str] = "diffusion"

    def __init__(
        self,
        data_shape: tuple[int, int, int] = (3, 32, 32),
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        heads: int = 2,
        patch: int = 1,
        diffusion_steps: int = 1000,
        schedule: ScheduleName = "linear",
        timesteps: Sequence[int] | None = (4, 16, 64, 256),
        weight: Weight = "bound",
        draws: int = 1,
        init_seed: int = 0,
    ) -> None:
        super().__init__(tuple(data_shape), (0.0, 255.0))
        _check_settings(self.data_shape, channels, multipliers, heads, patch)
        self._config = {
            "data_shape": list(data_shape),
            "channels": channels,
            "multipliers": list(multipliers),
            "heads": heads,
            "patch": patch,
            "diffusion_steps": diffusion_steps,
            "schedule": schedule,
            "timesteps": None if timesteps is None else list(timesteps),
            "weight": weight,
            "draws": draws,
            "init_seed": init_seed,
        }
        self.schedule = make_schedule(schedule, diffusion_steps)
        chosen = None if timesteps is None else tuple(timesteps)
        self.objective = Objective(chosen, weight, draws).check(diffusion_steps)
        with initial_seed(init_seed):
            self.unet = UNet(data_shape[0], channels, multipliers, heads, patch)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    @property
    def denoiser(self) -> Denoiser:
        """The noise predictor with its schedule: single terms of the bound and their noise."""
        return Denoiser(self.unet, self.schedule, self.data_shape)


def _check_settings(
    data_shape: Sequence[int], channels: int, multipliers: Sequence[int], heads: int, patch: int
) -> None:
    if len(data_shape) != 3:
        raise SettingError(f"data_shape is {tuple(data_shape)}, expected (channels, height, width)")
    if patch < 1 or any(size % patch for size in data_shape[1:]):
        raise SettingError(f"images of {data_shape[1]}x{data_shape[2]} cannot be cut into {patch}x{patch} patches")
    if channels < 16 or channels % 16 or not multipliers or min(multipliers) < 1:
        raise SettingError(f"channels is {channels} and multipliers {tuple(multipliers)}, expected multiples of 16")
    if heads < 1 or channels * multipliers[-1] % heads:
        raise SettingError(f"{channels * multipliers[-1]} channels cannot be shared by {heads} attention heads")
