"""How a flow stretches the space around a sample: the singular values of its generator's Jacobian."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from fisherscope.core.errors import ModelError
from fisherscope.features.extractors import Blocks, Extractor, Request
from fisherscope.models.protocols import HasLatents

_CHUNK: Final = 64
"""Rows of the Jacobian that are computed together."""


class JacobianSpectrum(Extractor):
    """``jacobian_spectrum`` (N, B, D): logs of the singular values of d point / d latent, falling.

    D backward passes and one singular value decomposition of a D x D matrix for every sample: some hundred samples of
    small images are what this is for.
    """

    blocks = ("jacobian_spectrum",)

    def extract(self, request: Request) -> Blocks:
        flow = request.module
        if not isinstance(flow, HasLatents):
            raise ModelError(
                f"{type(flow).__name__} is no normalising flow with flow_point and flow_latents; local intrinsic "
                "dimension needs one: use a detector that works with every model, such as likelihood or typicality"
            )
        with torch.no_grad():
            points = flow.flow_point(request.tensors(), seed=request.seed, keys=request.keys)
        spectra = torch.stack([generator_spectrum(flow, point) for point in points])
        return {"jacobian_spectrum": request.grouped(spectra.cpu().numpy())}


def generator_spectrum(flow: HasLatents, point: Tensor) -> Tensor:
    """Return the logs of the singular values of the generator's Jacobian at a point (...), (D,), float64, falling.

    The generator inverts the flow, so its singular values are the inverses of those of d latent / d point.
    """

    def latents(v: Tensor) -> Tensor:
        return flow.flow_latents(v.reshape(1, *point.shape))[0]

    jacobian = torch.func.jacrev(latents, chunk_size=_CHUNK)(point.detach().flatten())
    values: Tensor = torch.linalg.svdvals(jacobian.detach().double())
    return -values.flip(0).log()
