"""The Dockerfile and the conda environment, as far as they can be checked where neither engine runs."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
yaml = pytest.importorskip("yaml", reason="environment.yml is read with PyYAML")


def instructions():
    """Return the Dockerfile as (instruction, arguments)."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, rest in lines]


def arguments(name):
    return [rest for instruction, rest in instructions() if instruction == name]


def extras_of(text):
    return set(re.search(r"\.\[([\w,]+)\]", text)[1].split(","))


def known_extras():
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def test_the_base_image_is_pinned_to_a_patch_release_of_a_supported_python():
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_it_runs_the_command_line_as_an_ordinary_user():
    assert instructions()[-1] == ("CMD", '["--help"]') and arguments("ENTRYPOINT") == ['["fisherscope"]']
    (user,) = arguments("USER")
    assert user not in ("root", "0") and any(f"useradd --create-home --uid 1000 {user}" in r for r in arguments("RUN"))
    order = [name for name, _ in instructions()]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name == "RUN")


def test_every_installation_uses_the_constraints_and_torch_comes_before_the_sources():
    installs = [r for r in arguments("RUN") if "pip install" in r]
    assert len(installs) == 2 and all("-c constraints.txt" in r for r in installs)
    assert {"demo"} <= extras_of(installs[1]) <= known_extras()
    steps = [f"{name} {rest}" for name, rest in instructions()]
    assert steps.index(f"RUN {installs[0]}") < steps.index("COPY src ./src") < steps.index(f"RUN {installs[1]}")


def test_torch_runs_on_cpus_unless_the_argument_names_another_index():
    (index,) = arguments("ARG")
    assert re.fullmatch(r'TORCH_INDEX="https://\S+/whl/cpu"', index)
    # pip prefers 2.x+cpu to 2.x, and the constraint takes both
    assert any('--extra-index-url "$TORCH_INDEX" torch' in r for r in arguments("RUN"))
    assert any(line.startswith("torch==") for line in (ROOT / "constraints.txt").read_text().splitlines())


def test_what_is_copied_exists_and_is_not_ignored():
    sources = [s for rest in arguments("COPY") for s in rest.split()[:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == kept and all((ROOT / s).exists() for s in sources)


def test_the_conda_environment_installs_this_project_under_the_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = environment["dependencies"][-1]["pip"]
    assert "python=3.11" in environment["dependencies"] and pip[0] == "-c constraints.txt"
    assert pip[1].startswith("-e .[") and extras_of(pip[1]) <= known_extras()
