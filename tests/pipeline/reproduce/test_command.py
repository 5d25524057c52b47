"""The command: lists, plans, runs one or all, writes the page."""

import json
import re
from pathlib import Path

import pytest

from fisherscope.core.errors import DataError
from fisherscope.pipeline.reproduce.experiments import experiment_names, experiments_root, read_experiment
from fisherscope.pipeline.reproduce.page import write_page
from fisherscope.pipeline.reproduce.registry import RUNNERS, make_runner

ROOT = Path(__file__).parents[3]

OWN = """
runner = "auroc-grid"
makes = "Two sets."
comment = "Nothing follows from an untrained model & a few digits."
minutes = 1
limit = 40
detectors = ["likelihood", "typicality"]
[[grids]]
name = "grey"
families = ["vae", "glow"]
in_dist = ["digits", "faces"]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(OWN)
    return "mine.toml"


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_of_the_package_is_whole(name):
    experiment = read_experiment(name)
    make_runner(experiment)
    assert experiment.makes.endswith(".") and len(experiment.makes) < 130


def test_every_runner_has_an_experiment():
    assert {read_experiment(name).runner for name in experiment_names()} == set(RUNNERS)
    assert (ROOT / "experiments" / "reproduce").resolve() == experiments_root().resolve()


def test_the_list_is_in_the_docs(run):
    code, out, _ = run("reproduce", "--list")
    assert code == 0
    rows = dict(re.findall(r"^([\w-]+) +\d+ min  (.+)$", out, flags=re.MULTILINE))
    assert rows.keys() == set(experiment_names())
    page = (ROOT / "docs" / "reproduction.md").read_text()
    assert dict(re.findall(r"^\| `([\w-]+)` \| (.+?) \|", page, flags=re.MULTILINE)) == rows


def test_a_dry_run_says_what_is_there(run, models, own):
    code, out, err = run("reproduce", own, "--models", models, "--dry-run", "--id-datasets", "digits")
    assert code == 0, err
    assert "  vae of digits: against faces" in out and "  glow of digits: against faces" in out
    assert "faces: against" not in out
    code, out, _ = run("reproduce", own, "--models", models, "--dry-run")
    assert "skipped: model vae-faces, not in the folder of models" in out


def test_an_experiment_of_ones_own_and_its_page(run, models, own, tmp_path):
    arguments = ("--models", models, "--tables", tmp_path / "t", "--replicates", "20", "--family", "vae")
    code, out, err = run("reproduce", own, *arguments, "--out", tmp_path / "r", "--group-size", "2")
    assert code == 0, err
    written = json.loads((tmp_path / "r" / "results.json").read_text())
    assert (
        written["command"] == "fisherscope reproduce mine.toml --models DIR --replicates 20 --family vae --group-size 2"
    )
    assert str(tmp_path) not in json.dumps(written)
    assert "digits → faces" in out and "results: " in out and written["config"]["group_sizes"] == [2]


def test_the_page(tiny, tmp_path):
    tiny("table-auroc", {"families": ("vae",), "in_dist": ("digits",), "out_dist": ("faces",)}, comment="So & so.")
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces",)}
    tiny("figure-timesteps", grid, timesteps=(2, 16), options={})
    html, markdown = write_page(tmp_path, tmp_path / "page", "make reproduce")
    text, marked = html.read_text(), markdown.read_text()
    for page in (text, marked):
        assert page.index("figure-timesteps") < page.index("table-auroc")
        assert "make reproduce" in page and "vae-digits" in page and "digits → faces" in page
    assert "So &amp; so." in text and "**Why.** So & so." in marked
    pictures = re.findall(r'<img src="([^"]+)"', text)
    drawn = ["figure-timesteps-colour-timesteps.png", "table-auroc-colour-b1.png", "table-auroc-colour-b5.png"]
    assert pictures == re.findall(r"!\[.*\]\((.+)\)", marked) == drawn
    assert all((tmp_path / "page" / name).stat().st_size > 1000 for name in pictures)
    (tmp_path / "table-auroc" / "results.json").write_text("{}")
    with pytest.raises(DataError, match="run fisherscope reproduce table-auroc again"):
        write_page(tmp_path, tmp_path / "page", "make reproduce")


def test_all_leaves_out_what_has_nothing_and_refuses_options_of_one(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "models"
    empty.mkdir()
    code, _, err = run("reproduce", "all", "--set", "draws=3")
    assert code == 2 and "belong to one experiment" in err
    monkeypatch.delenv("FISHERSCOPE_DATA", raising=False)
    code, out, err = run("reproduce", "all", "--models", empty)
    assert code == 0, err
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert lines.keys() == set(experiment_names()) and all(v.startswith("nothing is left") for v in lines.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]
    code, _, err = run("reproduce", "table-auroc", "--models", empty)
    assert code == 2 and "nothing is left to do" in err and len(err.strip().splitlines()) == 1
    code, _, err = run("reproduce", "table-auroc", "--family", "gan")
    assert code == 2 and "has no family gan; it has glow" in err
