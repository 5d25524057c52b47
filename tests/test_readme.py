"""The README's examples run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(command, folder):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_examples_run(tmp_path):
    examples = blocks("python")
    assert len(examples) == 1
    printed = run([sys.executable, "-W", "error", "-c", examples[0]], tmp_path)
    assert printed.startswith("[ True  True  True]")
    assert (tmp_path / "guard" / "guard.safetensors").is_file()


def test_the_command_line_examples_run_one_after_another(tmp_path):
    examples = blocks("bash")
    assert len(examples) == 2
    printed = run(["bash", "-euc", "\n".join(examples)], tmp_path)
    assert "of 50 novel" in printed and "80 groups of 5" in printed and "AUROC" in printed
    assert len((tmp_path / "runs" / "scores.csv").read_text().splitlines()) == 51
    assert (tmp_path / "runs" / "report" / "index.html").is_file()


def test_every_link_leads_somewhere():
    root = Path(__file__).parents[1]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 4
    missing = [link for link in links if not (root / link).exists()]
    assert not missing
