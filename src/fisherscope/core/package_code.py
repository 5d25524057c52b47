"""A hash of the package's own code, so that what other code computed is not taken for its result."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path


@cache
def code_digest(*parts: str) -> str:
    """Return 8 hexadecimal digits that change with the code of some parts of the package, computed once a process.

    Comments, docstrings and layout do not count: the syntax trees are hashed. They differ between versions of Python.

    Args:
        parts: folders (with all below them) or files, relative to the package; one that begins with ``-`` is left out.
    """
    root = Path(str(resources.files("fisherscope")))
    left_out = {path for part in parts if part.startswith("-") for path in _files(root / part[1:])}
    files = {path for part in parts if not part.startswith("-") for path in _files(root / part)} - left_out
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}\n{_tree(path)}\n".encode())
    return digest.hexdigest()


def _files(place: Path) -> Iterator[Path]:
    yield from place.rglob("*.py") if place.is_dir() else (place,)


def _tree(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, also that of an attribute."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
