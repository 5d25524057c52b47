"""Every code block of the README and the docs runs as it stands, and every link leads somewhere."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fisherscope.detectors import detector_names
from fisherscope.detectors.registry import is_built_in
from fisherscope.features.metrics import metric_names
from fisherscope.models.base import FAMILIES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    """Return the distinct code blocks of a language, by the first page that shows them."""
    found = {}
    for page in PAGES:
        for text in re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL):
            found.setdefault(text, page.name)
    return found


def run(command, folder, given=None):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


RUN_ALL = """
import json, sys
for i, text in enumerate(json.load(sys.stdin)):
    exec(compile(text, f"block {i} of {sys.argv[1]}", "exec"), {"__name__": "__main__"})
"""


def python_pages():
    """Return the distinct Python blocks of each page."""
    found = blocks("python")
    return {page: [text for text, first in found.items() if first == page] for page in dict.fromkeys(found.values())}


@pytest.mark.parametrize("page", python_pages())
def test_python_blocks_run(tmp_path, page):
    examples = python_pages()[page]
    # One process a page, as importing the libraries takes longer than the examples; names are not shared.
    printed = run([sys.executable, "-W", "error", "-c", RUN_ALL, page], tmp_path, json.dumps(examples))
    if page == "README.md":
        assert printed.startswith("[ True  True  True]") and (tmp_path / "guard" / "guard.safetensors").is_file()


def test_every_family_has_an_example():
    text = "".join(python_pages()["models.md"])
    assert all(f'"{family}"' in text or f"import {family}" in text for family in FAMILIES)


def test_a_detector_a_metric_and_a_model_take_under_30_lines():
    classes = [b.body for text in python_pages()["extend.md"] for b in [ast.parse(text)]]
    lengths = {c.name: c.end_lineno - c.lineno + 1 for body in classes for c in body if isinstance(c, ast.ClassDef)}
    assert set(lengths) == {"LargestLayer", "RootDiagonal", "Normals"} and max(lengths.values()) < 30


def test_every_metric_is_documented():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert not [name for name in metric_names() if f"`{name}`" not in page]
    able = [n for n in detector_names() if is_built_in(f"{n}@kfac") and not n.startswith("layerwise-")]
    assert not [name for name in able if f"`{name}`" not in page]


def test_command_line_blocks_run_one_after_another(tmp_path):
    examples = blocks("bash")
    assert len(examples) >= 2
    printed = run(["bash", "-euc", "\n".join(examples)], tmp_path)
    assert "of 50 novel" in printed and "80 groups of 5" in printed and "AUROC" in printed
    assert len((tmp_path / "runs" / "scores.csv").read_text().splitlines()) == 51
    assert (tmp_path / "runs" / "report" / "index.html").is_file()


def command_lines():
    """Return every line of a block that calls the command line, continued lines joined, with its page."""
    found = []
    for page in PAGES:
        shown = False
        for line in page.read_text().replace("\\\n", " ").splitlines():
            if line.startswith("```"):
                shown = not shown
            elif shown and line.startswith("fisherscope "):
                found.append((page.name, line.split("#")[0]))
    return found


def test_every_command_of_the_docs_is_complete():
    """They parse: the command exists, takes these options, and has what it needs; nothing is run."""
    from fisherscope import cli

    read = typer.main.get_command(cli.app)
    lines = command_lines()
    assert len(lines) > 20
    for page, line in lines:
        name, *words = shlex.split(line.replace("...", ""))[1:]
        command = read.commands[name]
        context = command.make_context(name, words)
        if name == "train" and context.params["config"] is None:
            assert context.params["minutes"] or context.params["steps"], f"{page}: {line} has no budget"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert not missing
