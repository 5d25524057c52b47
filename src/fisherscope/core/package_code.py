"""Hashes of code, the package's and the user's own, so that what other code computed is not taken for its result."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache, partial
from importlib import resources
from pathlib import Path
from types import ModuleType


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


def own_code(*objects: object) -> str:
    """Return 8 hexadecimal digits that change with the user's code behind some objects; empty where they have none.

    The file is hashed in which the class or function is written, once a process, as :func:`code_digest` hashes files;
    where it is in a package, all files of that, and those of the user's modules that it imports. Its name counts too,
    and the arguments of ``functools.partial``. Code of the library, of Python and of installed packages does not count.

    Args:
        objects: instances, classes or functions; None counts for nothing.
    """
    digests = {_digest_of(found) for found in objects if found is not None} - {""}
    return hashlib.blake2b("".join(sorted(digests)).encode(), digest_size=4).hexdigest() if digests else ""


def _digest_of(found: object) -> str:
    """Return the hash of a class or function, by its file and its name, and of what a partial one is given."""
    if isinstance(found, partial):
        behind, given = _digest_of(found.func), [*enumerate(found.args), *sorted(found.keywords.items())]
        return f"{behind} {[(name, _said(value)) for name, value in given]}" if behind else ""
    kind = found if inspect.isclass(found) or inspect.isroutine(found) else type(found)
    module = inspect.getmodule(kind)
    behind = "" if module is None else _digest_behind(module)
    return f"{behind} {getattr(kind, '__qualname__', '')}" if behind else ""


def _said(value: object) -> str:
    """Return an argument as text that is the same in another process."""
    return repr(value) if isinstance(value, (str, int, float, type(None))) else type(value).__qualname__


@cache
def _digest_behind(module: ModuleType) -> str:
    """Return the hash of a module of the user's and of what it uses of theirs; empty for any other module."""
    if not _is_users(module):
        return ""
    files = set[Path]()
    for used in _used_by(module):
        path = Path(str(used.__file__))
        files.update(_files(path.parent) if used.__package__ else [path])
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(files):
        digest.update(f"{file.name}\n{_tree(file)}\n".encode())
    return digest.hexdigest()


def _used_by(module: ModuleType) -> list[ModuleType]:
    """Return a module and those of the user's that it, or one of these, has imported or has something of."""
    found = [module]
    for one in found:
        for value in list(vars(one).values()):
            used = value if isinstance(value, ModuleType) else sys.modules.get(str(getattr(value, "__module__", None)))
            if used is not None and used not in found and _is_users(used):
                found.append(used)
    return found


def _is_users(module: ModuleType) -> bool:
    path = getattr(module, "__file__", None)
    if path is None or module.__name__.partition(".")[0] == "fisherscope":
        return False
    places = sysconfig.get_paths()
    return not any(Path(path).is_relative_to(places[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _files(place: Path) -> Iterator[Path]:
    yield from place.rglob("*.py") if place.is_dir() else (place,)


def _tree(path: Path) -> str:
    """Return the syntax of a file as text; the hash of what is no source, nothing of what is not there (any more)."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return hashlib.blake2b(content).hexdigest()
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
