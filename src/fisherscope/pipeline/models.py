"""What can be said and shown of a model without data."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.core.store import write_atomic
from fisherscope.models.base import GenerativeModel, model_fingerprint
from fisherscope.models.zoo import zoo_entries


def model_info(model: GenerativeModel) -> dict[str, Any]:
    """Return what is known of a model, as JSON values.

    Returns:
        family, config, data_shape, fingerprint, parameters (their number), layers (name to shape of every parameter
        tensor, in the order of the gradient features), train_samples (None where unknown) and card.
    """
    layers = {name: list(p.shape) for name, p in model.named_parameters()}
    return {
        "family": model.family,
        "config": model.config(),
        "data_shape": list(model.data_shape),
        "fingerprint": model_fingerprint(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": layers,
        "train_samples": None if model.train_keys is None else len(model.train_keys),
        "card": asdict(model.card),
    }


def zoo_info() -> list[dict[str, Any]]:
    """Return the zoo as JSON values, one mapping a model."""
    return [asdict(entry) for entry in zoo_entries()]


def grid_picture(images: NDArray[np.uint8], scale: int) -> bytes:
    """Return a PNG file of images (n, 1 or 3, H, W) side by side, each pixel ``scale`` pixels wide and high."""
    from PIL import Image

    from fisherscope.report.figures import mosaic

    tiles = mosaic(images).repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(tiles[:, :, 0] if images.shape[1] == 1 else tiles).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_samples(model: GenerativeModel, out: str | Path, *, count: int = 64, seed: int = 0, scale: int = 2) -> None:
    """Draw samples of a model into a file.

    Args:
        model: the model.
        out: a ``.png`` for a grid of images, a ``.txt`` for windows of text, one a line, a ``.csv`` for rows of
            numbers, or a ``.npy`` for the samples themselves, any kind of them.
        count: how many.
        seed: seed of the draw.
        scale: side of each pixel in the picture.

    Raises:
        SettingError: no samples, or a file of another kind, were asked for.
        ModelError: the model's samples are nothing that such a file holds.
    """
    out = Path(out)
    if out.suffix not in _FORMATS or count < 1 or scale < 1:
        raise SettingError(
            f"{count} samples into {out} (scale {scale}): expected 1 or more, into {', '.join(_FORMATS)}"
        )
    kind, fits = _FORMATS[out.suffix]
    if not fits(model):
        raise ModelError(f"samples of shape {model.data_shape} are no {kind}; write them to a .npy file")
    drawn = model.sample(count, seed=seed).cpu().numpy()
    buffer = io.BytesIO()
    if out.suffix == ".npy":
        np.save(buffer, drawn)
    elif out.suffix == ".txt":
        buffer.write(b"".join(window.tobytes() + b"\n" for window in drawn))
    elif out.suffix == ".csv":
        np.savetxt(buffer, drawn, delimiter=",", fmt="%.9g")
    else:
        buffer.write(grid_picture(drawn, scale))
    write_atomic(out, buffer.getvalue())


_FORMATS: Final[Mapping[str, tuple[str, Callable[[GenerativeModel], bool]]]] = {
    ".png": ("grey or RGB images", lambda m: len(m.data_shape) == 3 and m.data_shape[0] in (1, 3)),
    ".txt": ("windows of bytes", lambda m: len(m.data_shape) == 1 and m.value_range == (0.0, 255.0)),
    ".csv": ("rows of numbers", lambda m: len(m.data_shape) == 1),
    ".npy": ("arrays", lambda m: True),
}
