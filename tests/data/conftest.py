from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FISHERSCOPE_DATA", raising=False)


@pytest.fixture
def save_image(tmp_path: Path) -> Save:
    """Write a random image of a mode and size below tmp_path; its pixels depend on the seed only."""

    def save(name: str, mode: str = "RGB", size: tuple[int, int] = (8, 6), seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        width, height = size
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
        else:
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).convert(mode)
        image.save(path)
        return path

    return save
