"""The hash of the package's code: what counts and what does not."""

import functools
import importlib

import numpy as np
import pytest
import torch

from fisherscope.core import package_code
from fisherscope.core.table import FeatureTable

digest = package_code.code_digest.__wrapped__

CODE = '''"""A module."""

X = 1
"""An attribute."""

def f(a):
    """Add one."""
    return a + 1
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(package_code.resources, "files", lambda name: tmp_path)
    for name in ("features/a.py", "features/deep/b.py", "models/c.py", "models/training/d.py", "cli.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CODE)
    return tmp_path


PARTS = ("features", "models", "-models/training")


@pytest.mark.parametrize("name", ["features/a.py", "features/deep/b.py", "models/c.py"])
def test_code_counts_but_neither_words_nor_layout(package, name):
    before = digest(*PARTS)
    words = CODE.replace("A module", "The module").replace("An attribute", "One").replace("Add one", "Say.\n\n    More")
    (package / name).write_text(words.replace("a + 1", "(a\n        + 1)  # one more"))
    assert digest(*PARTS) == before
    (package / name).write_text(CODE.replace("a + 1", "a + 2"))
    assert digest(*PARTS) != before


def test_other_parts_do_not_count(package):
    before = digest(*PARTS)
    for name in ("models/training/d.py", "cli.py"):
        (package / name).write_text("X = 2")
    assert digest(*PARTS) == before != digest(*PARTS, "cli.py")


def test_a_renamed_or_new_module_counts(package):
    before = digest(*PARTS)
    (package / "features" / "a.py").rename(package / "features" / "z.py")
    assert digest(*PARTS) != before


def test_the_users_own_code_counts(tmp_path, monkeypatch):
    own_code = package_code.own_code
    monkeypatch.setattr(package_code, "_digest_behind", package_code._digest_behind.__wrapped__)
    file = tmp_path / "own_code_behind.py"
    file.write_text("class Model:\n    def log_prob(self):\n        return 1\n\ndef factory(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("own_code_behind")
    first = own_code(module.Model())
    assert first == own_code(module.Model) != own_code(None, module.factory) != ""
    once, twice = (own_code(functools.partial(module.factory, times=n)) for n in (1, 2))
    assert own_code(module.factory) != once != twice
    file.write_text(file.read_text() + "# a comment\n")
    assert own_code(module.Model) == first
    file.write_text(file.read_text().replace("return 1", "return 2"))
    assert own_code(module.Model) != first
    assert own_code(None, torch.nn.Linear(1, 1), np.mean, FeatureTable, 3) == ""
    file.write_bytes(b"\0 no source")
    unread = own_code(module.Model)
    file.unlink()
    assert "" != unread != own_code(module.Model) != ""
