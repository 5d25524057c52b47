"""Samples of a model and other arrays, kept beside the feature tables and found again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fisherscope.core.errors import CardMismatchError, ModelError
from fisherscope.core.keys import fingerprint
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.models.base import GenerativeModel
from fisherscope.pipeline.cache import FEATURES, cache_file
from fisherscope.pipeline.reproduce.case import Case
from fisherscope.pipeline.reproduce.context import Context

CHUNK: Final = 32
"""Samples that are drawn, and kept, at a time."""
DRAWN: Final = (*FEATURES, "pipeline/reproduce/drawn.py")
"""Code that decides the samples of a given model."""


def cached_arrays(
    folder: Path, card: Mapping[str, Any], make: Callable[[], dict[str, NDArray[Any]]], code: tuple[str, ...]
) -> dict[str, NDArray[Any]]:
    """Return the arrays that a card describes, from ``folder`` or newly made (also if the code changed) and kept there.

    Args:
        folder: of kept arrays.
        card: all that they depend on beside the code.
        make: makes them.
        code: parts of the package that decide them, as :func:`~fisherscope.core.package_code.code_digest` takes them.

    Raises:
        CardMismatchError: the file holds something else.
    """
    digest = fingerprint([json.dumps(card, sort_keys=True).encode()])[:16]
    path = cache_file(folder, digest, code)
    if not path.is_file():
        write_arrays(path, make(), card)
    arrays, found = read_arrays(path)
    if found != card:
        raise CardMismatchError("card", dict(card), found, f"remove {path}")
    return arrays


def model_samples(context: Context, case: Case, count: int) -> NDArray[np.uint8]:
    """Return samples of a case's model, uint8 (count, C, H, W); independent draws, the same for the same seed.

    Raises:
        ModelError: the model is no image model, or cannot be sampled from.
    """
    target = context.target(replace(case, timestep=None))
    model = target.module
    if not isinstance(model, GenerativeModel) or len(model.data_shape) != 3:
        raise ModelError(f"{case.model} is no model of images that can be sampled from")
    progress = context.progress(case.model)
    model_fingerprint, chunks = target.fingerprint(), []
    for chunk in range(-(-count // CHUNK)):
        # each chunk has a stream of seeds of its own: the draws of a chunk are numbered from 0
        seed = context.settings.seed + (chunk << 32)
        card = {"samples": CHUNK, "model": model_fingerprint, "seed": seed, "dtype": target.dtype_name}
        chunks.append(cached_arrays(context.settings.tables, card, partial(_draw, model, seed), DRAWN)["x"])
        progress("samples", min((chunk + 1) * CHUNK, count), count)
    return np.concatenate(chunks)[:count]


@torch.no_grad()
def _draw(model: GenerativeModel, seed: int) -> dict[str, NDArray[Any]]:
    return {"x": model.sample(CHUNK, seed=seed).cpu().numpy()}
