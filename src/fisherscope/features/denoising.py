"""Blocks that only a diffusion model can fill: norms of its score, its path to noise, its score against curvature."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from fisherscope.core.errors import ModelError
from fisherscope.features.extractors import Blocks, Extractor, Request
from fisherscope.models.denoising import Denoiser
from fisherscope.models.denoising_probes import (
    msma_timesteps,
    path_statistics,
    path_timesteps,
    scoped_timesteps,
    score_curvature,
    score_norms,
)
from fisherscope.models.protocols import HasDenoiser
from fisherscope.models.reconstruction import restoration_errors, restoration_grid, restoration_starts

PATH_STEPS: Final = 10
_POWERS: Final = ("", "^2", "^3")


def denoiser_of(module: nn.Module) -> Denoiser:
    """Return the noise predictor of a diffusion model; another model is a :class:`ModelError`."""
    if not isinstance(module, HasDenoiser):
        raise ModelError(
            f"{type(module).__name__} is no diffusion model (it has no denoiser); "
            "use a detector that works with every model, such as likelihood or typicality"
        )
    return module.denoiser


def _as_block(values: Tensor, request: Request) -> Any:
    return request.grouped(values.double().cpu().numpy())


class ScoreNorms(Extractor):
    """``score_norms`` (N, B, levels): sigma_t ||s(x, sigma_t)|| at each noise level, see :func:`score_norms`."""

    blocks = ("score_norms",)

    @torch.no_grad()
    def extract(self, request: Request) -> Blocks:
        denoiser = denoiser_of(request.module)
        found = score_norms(denoiser, request.tensors(), msma_timesteps(denoiser.schedule))
        return {"score_norms": _as_block(found, request)}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {"score_norms": tuple(f"t={t}" for t in msma_timesteps(denoiser_of(module).schedule))}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {"score_norms": {"timesteps": list(msma_timesteps(denoiser_of(module).schedule))}}


class PathStatistics(Extractor):
    """``path_statistics`` (N, B, 6): powers of the noise along the path of DDIM, see :func:`path_statistics`."""

    blocks = ("path_statistics",)

    @torch.no_grad()
    def extract(self, request: Request) -> Blocks:
        denoiser = denoiser_of(request.module)
        found = path_statistics(denoiser, request.tensors(), path_timesteps(denoiser.schedule, PATH_STEPS))
        return {"path_statistics": _as_block(found, request)}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {"path_statistics": tuple(f"{name}{power}" for name in ("eps", "deps/dt") for power in _POWERS)}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {"path_statistics": {"timesteps": list(path_timesteps(denoiser_of(module).schedule, PATH_STEPS))}}


class ScoreCurvature(Extractor):
    """``score_curvature`` (N, B, 2): squared score over curvature at two timesteps, see :func:`score_curvature`."""

    blocks = ("score_curvature",)

    def extract(self, request: Request) -> Blocks:
        denoiser = denoiser_of(request.module)
        timesteps = scoped_timesteps(denoiser.schedule)
        with torch.no_grad():
            found = score_curvature(denoiser, request.tensors(), request.keys, request.seed, timesteps)
        return {"score_curvature": _as_block(found, request)}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        return {"score_curvature": tuple(f"t={t}" for t in scoped_timesteps(denoiser_of(module).schedule))}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        return {"score_curvature": {"timesteps": list(scoped_timesteps(denoiser_of(module).schedule))}}


class Restoration(Extractor):
    """``restoration`` (N, B, 2 starts): errors of images restored from noise, see :func:`restoration_errors`."""

    blocks = ("restoration",)

    @torch.no_grad()
    def extract(self, request: Request) -> Blocks:
        errors = restoration_errors(denoiser_of(request.module), request.tensors(), request.keys, request.seed)
        return {"restoration": _as_block(errors, request)}

    def columns(self, module: nn.Module) -> dict[str, tuple[str, ...]]:
        starts = restoration_starts(denoiser_of(module).schedule)
        return {"restoration": tuple(f"{measure} t={t}" for measure in ("mse", "1-ssim") for t in starts)}

    def settings(self, module: nn.Module) -> dict[str, Any]:
        schedule = denoiser_of(module).schedule
        return {"restoration": {"grid": list(restoration_grid(schedule)), "starts": list(restoration_starts(schedule))}}
