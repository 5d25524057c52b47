"""The zoo: small trained models that come with the package, named ``zoo:<family>-<data set>``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from safetensors import safe_open

from fisherscope.core.errors import ModelError
from fisherscope.models.files import ModelCard, read_head

PREFIX: Final = "zoo:"


@dataclass(frozen=True)
class ZooEntry:
    """One model of the zoo.

    Attributes:
        name: what :func:`~fisherscope.models.base.load_model` takes, with its ``zoo:``.
        family: model family.
        parameters: number of parameters and buffers' values.
        bytes: size of its files.
        fingerprint: fingerprint of its parameters.
        card: what is known of its training.
    """

    name: str
    family: str
    parameters: int
    bytes: int
    fingerprint: str
    card: ModelCard


def zoo_root() -> Path:
    """Return the folder that holds the zoo."""
    return Path(str(resources.files("fisherscope"))) / "zoo"


def zoo_folder(name: str, root: Path | None = None) -> Path:
    """Return the folder of a model of the zoo, given ``zoo:NAME``; an unknown one is an error that lists the zoo."""
    root = root or zoo_root()
    folder = root / name.removeprefix(PREFIX)
    if folder.parent != root or not (folder / "model.json").is_file():
        known = ", ".join(PREFIX + path.name for path in _folders(root)) or "empty in this installation"
        raise ModelError(f"'{name}' is not in the zoo; the zoo: {known}")
    return folder


def zoo_entries(root: Path | None = None) -> list[ZooEntry]:
    """Return the models of the zoo, by name."""
    return [_entry(folder) for folder in _folders(root or zoo_root())]


def _folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/model.json"))


def _entry(folder: Path) -> ZooEntry:
    head = read_head(folder)
    count = 0
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            size = 1
            for side in file.get_slice(name).get_shape():
                size *= side
            count += size
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return ZooEntry(PREFIX + folder.name, head.family, count, size, head.fingerprint, head.card)
