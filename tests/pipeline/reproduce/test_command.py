"""The command: lists, plans, runs one or all, writes the page."""

import json
import re
import shutil
from pathlib import Path

import pytest

from fisherscope.core.errors import DataError, ModelError
from fisherscope.models.glow import Glow
from fisherscope.pipeline.reproduce import page as page_module
from fisherscope.pipeline.reproduce.case import NothingLeftError
from fisherscope.pipeline.reproduce.experiments import experiment_names, experiments_root, narrow, read_experiment
from fisherscope.pipeline.reproduce.page import result_folders, write_page
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


@pytest.mark.parametrize(("option", "least"), [("--replicates", 40), ("--seed", 0)])
def test_numbers_are_checked_before_anything_is_computed(run, models, own, option, least):
    code, _, err = run("reproduce", own, "--models", models, "--dry-run", option, least - 1)
    assert code == 2 and f"{option[2:]} is {least - 1}, expected at least {least}" in err


def test_a_grid_without_any_of_the_wanted_sets_compares_nothing():
    """table-auroc has a grid of grey sets too, none of which is gtsrb."""
    colour, grey = narrow(read_experiment("table-auroc"), sets=("gtsrb",)).grids
    assert colour.compared == ("gtsrb",) and grey.compared == ()


def test_an_experiment_of_ones_own_and_its_page(run, models, own, tmp_path):
    arguments = ("--models", models, "--tables", tmp_path / "t", "--replicates", "40", "--family", "vae")
    code, out, err = run("reproduce", own, *arguments, "--out", tmp_path / "r", "--group-size", "2")
    assert code == 0, err
    written = json.loads((tmp_path / "r" / "results.json").read_text())
    assert (
        written["command"] == "fisherscope reproduce mine.toml --models DIR --family vae --group-size 2 --replicates 40"
    )
    assert str(tmp_path) not in json.dumps(written)
    assert "digits → faces" in out and "results: " in out and written["config"]["group_sizes"] == [2]
    (tmp_path / "r" / "notes.md").write_text("mine")
    code, _, err = run("reproduce", own, *arguments, "--out", tmp_path / "r", "--group-size", "1")
    assert code == 0, err
    files = {path.name for path in (tmp_path / "r").iterdir()}
    assert {"notes.md", "times.json", "results.json"} < files and (tmp_path / "r" / "notes.md").read_text() == "mine"
    assert any("b1" in name for name in files) and not any("b2" in name for name in files)


@pytest.fixture
def recorded(run, monkeypatch):
    """Return a function that returns the commands that a command line would record, one an experiment."""

    def command_of(*arguments):
        found = []

        def reproduce(name, experiment, settings, out, *, command, report):
            found.append(command)
            raise NothingLeftError("not run")

        monkeypatch.setattr("fisherscope.pipeline.reproduce.run.reproduce", reproduce)
        run("reproduce", *arguments)
        return found

    return command_of


def test_the_recorded_command_is_what_was_parsed(recorded, own, tmp_path, monkeypatch):
    assert recorded("table-auroc", "--models", "zoo", "--seed", 3) == ["fisherscope reproduce table-auroc --seed 3"]
    # several words after an option, as the original's example has them, end at an option or at the experiment
    joined = ["fisherscope reproduce table-auroc --family glow,vae --datasets gtsrb,celeba --limit 50"]
    assert recorded("--datasets", "gtsrb", "celeba", "table-auroc", "--family", "glow", "vae", "--limit", 50) == joined
    assert recorded("table-auroc", "--datasets", "gtsrb,celeba", "--family", "glow,vae", "--limit", 50) == joined
    assert recorded("table-auroc", "--models=zoo", "--detectors", "all") == [
        "fisherscope reproduce table-auroc --detectors all"
    ]
    places = ("--models", tmp_path, "--out", tmp_path / "o", "--tables", "t", "--data-root", tmp_path, "--page", "p")
    words = ("--set", "shown=4", "--set", "x=a b", "--no-fitted-distribution", "--limit", "7", "--device=cpu")
    same = "--models DIR --limit 7 --set shown=4 --set 'x=a b' --no-fitted-distribution"
    assert recorded(tmp_path / own, *places, *words) == [f"fisherscope reproduce mine.toml {same}"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.toml").write_text(OWN)
    assert recorded(tmp_path / "sub" / "other.toml") == ["fisherscope reproduce sub/other.toml"]
    monkeypatch.chdir(tmp_path / "sub")
    assert recorded(tmp_path / own) == ["fisherscope reproduce mine.toml"]
    assert recorded("../mine.toml") == ["fisherscope reproduce ../mine.toml"]


def test_all_records_the_command_of_each_experiment_alone(recorded):
    found = recorded("all", "--family", "vae,pixelcnn", "--family", "glow", "--datasets", "gtsrb", "--detectors", "all")
    assert len(found) == len(experiment_names())
    by_name = {words.split()[2]: words for words in found}
    every = "--datasets gtsrb --detectors all"
    assert by_name["table-auroc"] == f"fisherscope reproduce table-auroc --family vae,pixelcnn,glow {every}"
    assert by_name["table-fishers-method"].split(" --")[1] == "family vae,pixelcnn,glow"
    assert by_name["figure-fim"] == f"fisherscope reproduce figure-fim --family vae,glow {every}"
    assert by_name["figure-timesteps"] == f"fisherscope reproduce figure-timesteps {every}"
    assert by_name["figure-total-variation"] == "fisherscope reproduce figure-total-variation --detectors all"


COMPARING = ["figure-layer-histograms", "figure-layer-scatter", "figure-autocorrelation", "figure-rgb-hsv"]
COMPARING += ["figure-timesteps", "table-auroc", "table-fishers-method", "table-leaderboard"]


@pytest.mark.parametrize("name", COMPARING)
def test_models_without_another_set_leave_nothing_to_compare(tiny, name):
    families = ("diffusion",) if name == "figure-timesteps" else ("vae",)
    with pytest.raises(NothingLeftError):
        tiny(name, {"families": families, "in_dist": ("digits",)})


@pytest.mark.parametrize("name", ["figure-samples", "figure-fim"])
def test_models_that_cannot_be_sampled_from_leave_nothing_to_draw(tiny, name, monkeypatch):
    def fail(*arguments, **settings):
        raise ModelError("sampling overflows")

    monkeypatch.setattr(Glow, "sample", fail)
    with pytest.raises(NothingLeftError, match=r"samples of glow-digits \(sampling overflows"):
        tiny(name, {"families": ("glow",), "in_dist": ("digits",)})


def test_all_goes_on_after_an_experiment_with_nothing_left(run, models, own, tmp_path, monkeypatch):
    lonely = OWN.replace("auroc-grid", "layer-histograms").replace('["digits", "faces"]', '["digits"]')
    (tmp_path / "lonely.toml").write_text(lonely)
    experiments = "fisherscope.pipeline.reproduce.experiments.experiment_names"
    monkeypatch.setattr(experiments, lambda: ("lonely.toml", "mine.toml"))
    code, out, err = run("reproduce", "all", "--models", models, "--replicates", "40", "--out", tmp_path / "r")
    assert code == 0, err
    assert "lonely: every model has only its own set" in out
    assert [path.parent.name for path in (tmp_path / "r").glob("*/results.json")] == ["mine"]


def test_all_goes_on_after_an_experiment_that_fails(run, models, own, tmp_path, monkeypatch):
    (tmp_path / "broken.toml").write_text(OWN.replace("auroc-grid", "timesteps"))
    experiments = "fisherscope.pipeline.reproduce.experiments.experiment_names"
    monkeypatch.setattr(experiments, lambda: ("broken.toml", "mine.toml"))
    page = tmp_path / "page"
    arguments = ("--models", models, "--replicates", "40", "--out", tmp_path / "r", "--page", page)
    code, out, err = run("reproduce", "all", *arguments)
    assert code == 2 and "broken.toml failed" in err
    assert "broken: this experiment needs timesteps" in out
    assert "## mine" in (page / "index.md").read_text()


def test_the_page(tiny, tmp_path):
    tiny("table-auroc", {"families": ("vae",), "in_dist": ("digits",), "out_dist": ("faces",)}, comment="So & so.")
    grid = {"families": ("diffusion",), "in_dist": ("digits",), "out_dist": ("faces",)}
    tiny("figure-timesteps", grid, timesteps=(2, 16), options={})
    html, markdown = write_page(result_folders(tmp_path), tmp_path / "page", "make reproduce")
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
        result_folders(tmp_path)
    with pytest.raises(DataError, match="holds no results of an experiment; run one first"):
        result_folders(tmp_path / "page")


def test_a_page_keeps_the_experiments_of_earlier_runs(tiny, tmp_path):
    grid = {"families": ("vae",), "in_dist": ("digits",), "out_dist": ("faces",)}
    page = tmp_path / "page"
    tiny("table-auroc", grid)
    write_page([tmp_path / "table-auroc"], page, "first")
    assert sorted(p.name for p in page.iterdir()) == [
        *("index.html", "index.md"),
        *("table-auroc-colour-b1.png", "table-auroc-colour-b5.png", "table-auroc.json"),
    ]
    first = (page / "index.md").read_text().partition("## table-auroc")[2]
    shutil.move(tmp_path / "table-auroc", tmp_path / "elsewhere")
    (page / "other.json").write_text("[1]")
    tiny("figure-timesteps", grid | {"families": ("diffusion",)}, timesteps=(2, 16), options={})
    write_page([tmp_path / "figure-timesteps"], page, "second")
    both = (page / "index.md").read_text()
    assert both.index("## figure-timesteps") < both.index("## table-auroc") and both.endswith(first)
    whole = json.loads((tmp_path / "elsewhere" / "results.json").read_text())
    assert json.loads((page / "table-auroc.json").read_text()) == page_module._short(whole)
    # long lists of numbers are counted, other lists kept
    assert page_module._short({"a": [[1, 2.5]] * 300, "b": [{"c": 1}] * 600, "d": [1] * 500}) == {
        "a": "600 numbers",
        "b": [{"c": 1}] * 600,
        "d": [1] * 500,
    }
    assert page_module._short([0.123456789, 7]) == [0.123457, 7]
    # of many figures evenly spaced ones are shown, and none that is kept off pages
    results = tmp_path / "elsewhere" / "results.json"
    value = json.loads(results.read_text())
    names = [f"f{i:02d}" for i in range(20)]
    results.write_text(json.dumps(value | {"figures": ["secret", *names], "off_page": ["secret"]}))
    for stem in names:
        shutil.copy(tmp_path / "elsewhere" / "colour-b1.png", tmp_path / "elsewhere" / f"{stem}.png")
    write_page([tmp_path / "elsewhere"], page, "many")
    shown = [f"table-auroc-f{i:02d}.png" for i in range(0, 20, 2)]
    assert sorted(p.name for p in page.glob("table-auroc-*.png")) == shown
    for text in ((page / "index.md").read_text(), (page / "index.html").read_text()):
        assert "The command writes 11 further figures." in text and "secret" not in text
    # made again with one picture less: it is replaced, and the picture that it has no more goes
    tiny("table-auroc", grid, group_sizes=(1,))
    write_page([tmp_path / "table-auroc"], page, "third")
    assert sorted(p.name for p in page.glob("*.png")) == [
        *("figure-timesteps-colour-timesteps.png", "table-auroc-colour-b1.png"),
    ]
    assert "b5.png" not in (page / "index.md").read_text()


def test_the_page_of_ones_own_experiment_wherever_its_results_are(run, models, own, tmp_path):
    arguments = ("--models", models, "--tables", tmp_path / "t", "--replicates", "40", "--family", "vae")
    page = tmp_path / "page"
    code, _, err = run("reproduce", own, *arguments, "--page", page)
    assert code == 0, err
    text = (page / "index.md").read_text()
    assert "## mine" in text and "Two sets." in text and (page / "mine-grey-b1.png").is_file()
    said = "fisherscope reproduce mine.toml --models DIR --family vae --replicates 40"
    assert (
        f"```text\n{said}\n```" in text
        and "Last written by `fisherscope reproduce mine.toml --models DIR --page DIR" in text
    )
    # a second experiment joins it; results under another name than their experiment's do not
    (tmp_path / "second.toml").write_text(OWN)
    other = tmp_path / "runs" / "reproduction" / "elsewhere"
    assert run("reproduce", "second.toml", *arguments, "--page", page)[0] == 0
    assert run("reproduce", "second.toml", *arguments, "--out", other, "--page", tmp_path / "one")[0] == 0
    assert re.findall("^## (.+)$", (page / "index.md").read_text(), flags=re.MULTILINE) == ["mine", "second"]
    one = (tmp_path / "one" / "index.md").read_text()
    assert re.findall("^## (.+)$", one, flags=re.MULTILINE) == ["second"]
    assert run("reproduce", own, *arguments, "--page", page)[0] == 0
    assert re.findall("^## (.+)$", (page / "index.md").read_text(), flags=re.MULTILINE) == ["mine", "second"]
    for path in (page / "index.md", page / "index.html", tmp_path / "one" / "index.html"):
        assert str(tmp_path) not in path.read_text() and tmp_path.name not in path.read_text()


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
