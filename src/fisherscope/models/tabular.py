"""A normalising flow over rows of numbers, from zuko (extra ``flows``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.models.base import GenerativeModel
from fisherscope.models.initial import initial_seed
from fisherscope.models.noise import normal_noise

_FLOWS: Final = ("NSF", "MAF", "NICE")


class TabularFlow(GenerativeModel):
    """A zuko flow over standardised columns.

    The mean and deviation of each column are taken from the first training batch and are no parameters: log p of a
    row in its own units has no gradient with respect to them.

    Args:
        data_shape: (D,), the number of columns, at least 2.
        flow: ``NSF`` (neural spline, Durkan et al. 2019), ``MAF`` (Papamakarios et al. 2017) or ``NICE`` (affine
            couplings, Dinh et al. 2015).
        transforms: number of transformations.
        hidden: widths of their networks.
        init_seed: seed of the initial weights and orders.
    """

    family: ClassVar[str] = "tabular"
    statistic_names = ("log_p_latent", "log_det")
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        data_shape: tuple[int] = (2,),
        flow: str = "NSF",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        init_seed: int = 0,
    ) -> None:
        super().__init__(tuple(data_shape), (-math.inf, math.inf))
        if len(data_shape) != 1 or data_shape[0] < 2:
            raise SettingError(f"data_shape is {tuple(data_shape)}, expected (columns,) with at least 2 columns")
        if flow not in _FLOWS:
            raise SettingError(f"flow is '{flow}', expected one of {', '.join(_FLOWS)}")
        if transforms < 1 or not hidden or min(hidden) < 1:
            raise SettingError(f"transforms ({transforms}) and hidden ({tuple(hidden)}) must be at least 1")
        self._config = {
            "data_shape": list(data_shape),
            "flow": flow,
            "transforms": transforms,
            "hidden": list(hidden),
            "init_seed": init_seed,
        }
        try:
            from zuko import flows
        except ImportError:
            raise ModelError("the tabular family needs zuko; install fisherscope[flows]") from None
        with initial_seed(init_seed):
            kind = getattr(flows, flow)
            self.flow = kind(features=data_shape[0], transforms=transforms, hidden_features=list(hidden))
        self.register_buffer("mean", torch.zeros(data_shape[0]))
        self.register_buffer("scale", torch.ones(data_shape[0]))

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    @torch.no_grad()
    def initialise(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> None:
        """Take mean and deviation of each column from rows x (n, D), n at least 2; a constant column keeps scale 1."""
        scale, mean = torch.std_mean(self.check_batch(x), dim=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def flow_point(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the standardised rows, (n, D); seed and keys do nothing."""
        return (self.check_batch(x) - self.mean) / self.scale

    def flow_latents(self, points: Tensor) -> Tensor:
        """Return the latents (n, D) of standardised rows."""
        latents: Tensor = self.flow().transform(points)
        return latents

    def log_prob(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return log p of rows x (n, D) in their own units, in nats, (n,); seed and keys do nothing."""
        log_p: Tensor = self.flow().log_prob(self.flow_point(x)) - self.scale.log().sum()
        return log_p

    def statistics(self, x: Tensor, *, seed: int = 0, keys: KeyArray | None = None) -> Tensor:
        """Return the terms of log p(x), (n, 2): log density of the latents, log|det J| of the map to them."""
        latent = self.flow().base.log_prob(self.flow_latents(self.flow_point(x)))
        return torch.stack([latent, self.log_prob(x) - latent], dim=1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n rows, (n, D)."""
        noise = normal_noise(np.arange(n, dtype=np.uint64), self.data_shape, seed=seed, like=self.mean)
        standard: Tensor = self.flow().transform.inv(noise)
        return standard * self.scale + self.mean
