"""Files of results that are found again only by the code, and with the libraries, that computed them."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import Final

from fisherscope.core.keys import fingerprint
from fisherscope.core.package_code import code_digest
from fisherscope.pipeline.versions import versions

FEATURES: Final = (
    "features",
    "models",
    "-models/training",
    "data",
    "pipeline/batches.py",
    "pipeline/extraction.py",
    "pipeline/target.py",
)
"""Code that decides the numbers of a feature table whose model, samples and settings are given."""
SCORES: Final = (*FEATURES, "detectors", "evaluation", "pipeline/evaluation.py", "pipeline/reproduce/scores.py")
"""Code that decides the scores of given samples."""


def cache_file(folder: Path, name: str, code: tuple[str, ...]) -> Path:
    """Return the file of a result; once a folder it is said if results are there that other code computed.

    Args:
        folder: of such files.
        name: hash of all that the result depends on beside the code.
        code: parts of the package that it depends on, as :func:`~fisherscope.core.package_code.code_digest` takes them.
    """
    path = folder / f"{name}{file_ending(code)}"
    # whole ones, and folders of parts of unfinished ones
    there = {found.name.partition(".")[0] for found in folder.glob(f"{name}*")}
    if there - {path.stem} and not path.exists():
        _tell(folder)
    return path


def file_ending(code: tuple[str, ...]) -> str:
    """Return how the names of files of some parts of the code end now, with the libraries that are installed."""
    made_by = fingerprint([code_digest(*code).encode(), json.dumps(versions()).encode()])
    return f"-{made_by[:8]}.safetensors"


@cache
def _tell(folder: Path) -> None:
    logging.getLogger(__name__).warning(
        "some results in %s were computed by other code (or with other libraries); they are not used but made again",
        folder,
    )
