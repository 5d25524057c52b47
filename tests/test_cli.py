"""The command line: the road from images to scores, and one clear line for every mistake."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from fisherscope.cli import app, main
from fisherscope.cli_common import parse_bytes, parse_shape
from fisherscope.core.errors import SettingError
from fisherscope.data import load_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained model, a fitted detector and ten pictures, made by the commands themselves."""
    home = tmp_path_factory.mktemp("cli")
    test = load_samples("digits[test]")
    np.save(home / "test.npy", test.x)
    (home / "pictures").mkdir()
    for i in range(10):
        Image.fromarray(test.x[-1 - i, 0]).save(home / "pictures" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        for command in (
            [
                "train",
                "glow",
                "--data",
                "digits",
                "--out",
                "glow",
                "--steps",
                "20",
                "--flow-steps",
                "2",
                "--hidden",
                "8",
            ],
            ["fit", "glow", "--data", "digits", "--limit", "300", "--fpr", "0.05", "--out", "guard"],
        ):
            patch.chdir(home)
            patch.setattr(sys, "argv", ["fisherscope", *command])
            main()
    return home


def test_a_folder_of_pictures_is_scored_in_one_command(run, folder, tmp_path):
    code, out, _ = run("score", folder / "guard", "--data", folder / "pictures", "--out", tmp_path / "s.csv")
    assert code == 0 and "of 10 novel" in out
    again = run("score", folder / "guard", "--data", "digits", "--limit", 300, "--out", tmp_path / "again.csv")
    assert again[0] == 0 and "was trained on: 300, whose p-values promise nothing" in again[1]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert list(rows[0]) == ["id", "score", "p_value", "novel"]
    assert [r["id"] for r in rows] == [f"{i}.png" for i in range(10)]
    assert all(0 < float(r["p_value"]) <= 1 for r in rows)
    assert all((r["novel"] == "true") == (float(r["p_value"]) <= 0.05) for r in rows)


def test_a_detector_takes_in_more_samples(run, folder, tmp_path):
    first, second, fitted = tmp_path / "first.npy", tmp_path / "second.npy", tmp_path / "fitted"
    x = np.load(folder / "test.npy")
    np.save(first, x[:200])
    np.save(second, x[200:260])
    fit = ("fit", folder / "glow", "--data", first, "--detector", "layerwise-gaussian", "--fpr", 0.05, "--out", fitted)
    assert run(*fit)[0] == 0
    code, out, _ = run("update", fitted, "--data", second, "--out", tmp_path / "updated")
    assert code == 0 and "layerwise-gaussian, calibrated on 130 groups of 1, at most 5.00% false alarms" in out
    code, _, err = run("update", tmp_path / "updated", "--data", second, "--out", tmp_path / "again")
    assert code == 2 and "60 of 60 samples given to update were given to this guard before" in err
    code, _, err = run("update", folder / "guard", "--data", second, "--out", tmp_path / "again")
    assert code == 2 and "fisher-dose cannot take in further samples" in err and not (tmp_path / "again").exists()


WITH_LIMIT = {
    "train": ("glow", "--data", "digits"),
    "extract": ("glow", "--data", "digits"),
    "fit": ("glow", "--data", "digits"),
    "score": ("guard", "--data", "digits"),
    "update": ("guard", "--data", "digits"),
    "evaluate": ("glow", "--in-dist", "digits", "--out-dist", "faces"),
    "explain": ("guard", "--data", "digits"),
    "rank": ("guard", "--data", "digits"),
    "reproduce": ("table-auroc",),
}


def test_the_promise_to_samples_of_clusters_is_stated(run, folder, tmp_path):
    x = np.load(folder / "test.npy")
    (tmp_path / "frames").mkdir()
    for i in range(120):
        Image.fromarray(x[i, 0]).save(tmp_path / "frames" / f"t{i // 6}-frame{i % 6}.png")
    fit = ("fit", folder / "glow", "--data", tmp_path / "frames", "--fpr", 0.05, "--detector", "likelihood")
    code, out, _ = run(*fit, "--out", tmp_path / "guard")
    promise = (
        f"groups of 1 from 10 clusters, at most {0.05 + 0.95 / 11:.2%} false alarms in the mean over new clusters above"
    )
    assert code == 0 and promise in out
    code, out, _ = run(*fit, "--group-size", 2, "--out", tmp_path / "pairs")
    assert code == 0 and "of 2 from 10 clusters, 5.00% false alarms wanted, not promised" in out


def test_every_command_with_a_limit_is_asked_for_a_wrong_one():
    commands = typer.main.get_command(app).commands.items()
    assert {name for name, c in commands if any("--limit" in p.opts for p in c.params)} == set(WITH_LIMIT)


@pytest.mark.parametrize("limit", [0, -5])
@pytest.mark.parametrize("command", WITH_LIMIT)
def test_a_limit_below_one_is_refused(run, command, limit, tmp_path):
    out = () if command == "evaluate" else ("--out", tmp_path / "out")
    code, _, err = run(command, *WITH_LIMIT[command], *out, "--limit", limit)
    assert code == 2 and f"'--limit': {limit} was given, expected at least 1 sample" in err
    assert not (tmp_path / "out").exists()


def test_score_formats_agree(run, folder, tmp_path):
    from pyarrow import parquet

    for suffix in ("csv", "jsonl", "parquet"):
        assert run("score", folder / "guard", "--data", folder / "pictures", "--out", tmp_path / f"s.{suffix}")[0] == 0
    by_csv = [float(r["score"]) for r in csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text()))]
    by_json = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    by_parquet = parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert by_csv == [r["score"] for r in by_json]
    assert by_json == by_parquet


def test_extract_then_fit_then_score_on_tables(run, folder, tmp_path):
    table = tmp_path / "t.safetensors"
    code, out, _ = run("extract", folder / "glow", "--data", folder / "test.npy", "--group-size", 2, "--out", table)
    assert code == 0 and "299 groups of 2" in out
    code, out, _ = run("fit", folder / "glow", "--data", table, "--fpr", 0.05, "--out", tmp_path / "guard")
    assert code == 0 and "calibrated on" in out
    code, out, _ = run("score", tmp_path / "guard", "--data", table, "--out", tmp_path / "s.jsonl")
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert len(rows) == 299 and ";" in rows[0]["id"]
    ignored = {"--split": "test", "--limit": 5, "--resize": "1x8x8", "--window": 4}
    options = [part for pair in ignored.items() for part in pair]
    for command, place in (("fit", folder / "glow"), ("score", tmp_path / "guard"), ("update", tmp_path / "guard")):
        code, _, err = run(command, place, "--data", table, "--out", tmp_path / "no.csv", *options)
        assert code == 2 and "leave out --split, --limit, --resize, --window, or" in err and err.count("\n") == 1
        code, _, err = run(command, place, "--data", table, "--out", tmp_path / "no.csv", "--limit", 5)
        assert code == 2 and "leave out --limit, or" in err
    code, _, err = run("fit", folder / "glow", "--data", table, "--out", tmp_path / "no", "--group-size", 1)
    assert code == 2 and "group_size is 1, but the feature table holds groups of 2" in err


def test_evaluate_writes_records_and_a_report(run, folder, tmp_path):
    json_file, report = tmp_path / "r.json", tmp_path / "report"
    rng = np.random.default_rng(0)
    np.save(tmp_path / "noise.npy", rng.integers(0, 256, (120, 1, 8, 8), dtype=np.uint8))
    code, out, err = run(
        *("evaluate", folder / "glow", "--in-dist", "digits", "--out-dist", tmp_path / "noise.npy", "--limit", 200),
        *("--group-size", 1, "--group-size", 5, "--json", json_file, "--report", report),
        *("--against", "typicality", "--replicates", 300),
    )
    assert code == 0, err
    assert "AUROC minus that of typicality" in out and "300 resamples" in out
    assert "In-distribution: 200 samples of digits[test]" in out
    records = json.loads(json_file.read_text())
    assert len(records) == 2 * 6
    wanted = {"in_dist", "out_dist", "group_size", "detector", "auroc", "auroc_low", "auroc_high", "aupr", "fpr95"}
    assert wanted | {"n_in", "n_out", "seed"} <= set(records[0])
    by_name = {(r["detector"], r["group_size"]): r for r in records}
    assert by_name["likelihood", 1]["auroc"] > 0.9  # white noise is what a likelihood always notices
    assert by_name["likelihood", 1]["n_in"] == 50 and by_name["likelihood", 5]["n_out"] == 24
    assert all(r["auroc_low"] <= r["auroc"] <= r["auroc_high"] for r in records)
    assert (report / "index.html").is_file()


def test_a_comparison_with_what_is_not_evaluated_is_refused_before_the_work(run, folder):
    data = ("--in-dist", "digits", "--out-dist", "moon")
    for names in (("likelihood",), ("likelihood", "typicality")):
        given = [part for name in names for part in ("--detector", name)]
        against = "likelihood" if len(names) == 1 else "fisher-dose"
        code, _, err = run("evaluate", folder / "glow", *data, *given, "--against", against)
        assert code == 2 and f"--against names '{against}', evaluated are {', '.join(names)}" in err


OWN_MODEL = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.full((1, 8, 8), 100.0))
def log_prob(net, x):
    return -((x - net.mean) / 50).square().flatten(1).sum(1)
def make():
    return Net(), log_prob
"""


def test_a_users_factory_is_a_model(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    monkeypatch.chdir(tmp_path)
    code, out, err = run("fit", "mine:make", "--data", "digits", "--limit", 200, "--fpr", 0.05, "--out", "guard")
    assert (code, err) == (0, "")
    code, _, err = run("score", "guard", "--data", "digits", "--limit", 20, "--out", "s.csv")
    assert code == 2 and "holds no model of its own" in err
    code, out, _ = run("score", "guard", "--model", "mine:make", "--data", "digits", "--limit", 20, "--out", "s.csv")
    assert code == 0 and "of 20 novel" in out


def test_a_guard_in_double_precision_serves_every_command(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    monkeypatch.chdir(tmp_path)
    x = load_samples("digits[test]").x
    np.save("good.npy", x[:100])
    np.save("new.npy", x[100:120])
    fit = ("fit", "mine:make", "--data", "good.npy", "--fpr", 0.1, "--detector", "layerwise-gaussian", "--out", "guard")
    code, _, err = run(*fit, "--dtype", "float64")
    assert (code, err) == (0, "")
    for command, out in (("score", "s.csv"), ("explain", "why"), ("rank", "r.csv"), ("update", "later")):
        code, _, err = run(command, "guard", "--model", "mine:make", "--data", "new.npy", "--out", out)
        assert (code, err) == (0, ""), command


def corrupt_folder(folder, tmp_path):
    (tmp_path / "bad").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "bad" / "a.png")
    (tmp_path / "bad" / "b.png").write_bytes((tmp_path / "bad" / "a.png").read_bytes()[:40])
    return tmp_path / "bad"


def empty_folder(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def colour_folder(folder, tmp_path):
    (tmp_path / "colour").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colour" / "a.png")
    return tmp_path / "colour"


def large_images(folder, tmp_path):
    np.save(tmp_path / "large.npy", np.zeros((5, 1, 16, 16), np.uint8))
    return tmp_path / "large.npy"


def nan_array(folder, tmp_path):
    x = np.full((5, 1, 8, 8), 7.0)
    x[3, 0, 1, 1] = np.nan
    np.save(tmp_path / "nan.npy", x)
    return tmp_path / "nan.npy"


def test_samples_that_fill_no_group_are_named(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.load(folder / "test.npy")
    np.save("good.npy", x[:200])
    np.save("new.npy", x[200:217])
    np.save("many.npy", x[200:232])
    fit = ("fit", folder / "glow", "--data", "good.npy", "--detector", "layerwise-gaussian", "--fpr", 0.2)
    assert run(*fit, "--group-size", 12, "--out", "guard")[0] == 0
    left_out = ", ".join(f"new.npy[{i}]" for i in range(12, 17))
    for command, out in (("score", "s.csv"), ("explain", "why"), ("rank", "r.csv")):
        code, printed, err = run(command, "guard", "--data", "new.npy", "--out", out)
        assert (code, err) == (0, "") and f"5 not judged, as they fill no group of 12: {left_out}\n" in printed
    _, printed, _ = run("score", "guard", "--data", "many.npy", "--out", "s.csv")
    assert "\n8 not judged, as they fill no group of 12: many.npy[24], " in printed
    np.save("many.npy", x[200:223])
    _, printed, _ = run("score", "guard", "--data", "many.npy", "--out", "s.csv")
    assert "\n11 not judged" in printed and printed.endswith(" many.npy[16] and 6 more\n")
    _, printed, _ = run("score", folder / "guard", "--data", "new.npy", "--out", "s.csv")
    assert "not judged" not in printed


BAD_DATA = {
    "missing file": (lambda folder, tmp_path: tmp_path / "no.npy", "does not exist"),
    "empty folder": (empty_folder, "empty"),
    "corrupt PNG": (corrupt_folder, "b.png"),
    "wrong mode": (colour_folder, "8x8 RGB, the model expects 8x8 grey"),
    "wrong shape": (large_images, "16x16 grey, the model expects 8x8 grey"),
    "NaN": (nan_array, "NaN or inf, first in row 3"),
    "unknown name": (lambda folder, tmp_path: "no-such-set", "no-such-set"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_line_and_leaves_nothing(run, folder, tmp_path, case):
    make, message = BAD_DATA[case]
    data = make(folder, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for command in (
        ["score", folder / "guard", "--data", data, "--out", tmp_path / "out.csv"],
        ["fit", folder / "glow", "--data", data, "--out", tmp_path / "out"],
        ["extract", folder / "glow", "--data", data, "--out", tmp_path / "out.safetensors"],
        ["evaluate", folder / "glow", "--in-dist", "digits", "--out-dist", data, "--json", tmp_path / "out.json"],
    ):
        code, out, err = run(*command)
        assert code == 2, command
        assert message in err and err.count("\n") == 1 and err.startswith("fisherscope: "), err
        assert out == "" and sorted(tmp_path.rglob("*")) == before


def test_other_mistakes_are_one_line_and_leave_nothing(run, folder, tmp_path):
    out = tmp_path / "out"
    truncated = tmp_path / "truncated"
    truncated.mkdir()
    for name in ("model.json", "model.safetensors"):
        content = (folder / "glow" / name).read_bytes()
        (truncated / name).write_bytes(content[:-100] if name.endswith("tensors") else content)
    foreign = tmp_path / "foreign.safetensors"
    other = tmp_path / "other"
    train = ["train", "glow", "--data", "digits", "--steps", 1, "--flow-steps", 1, "--hidden", 4]
    assert run(*train, "--out", other)[0] == 0
    assert run("extract", other, "--data", "digits", "--limit", 200, "--out", foreign)[0] == 0
    before = sorted(tmp_path.rglob("*"))
    fit = ["fit", folder / "glow", "--data", "digits", "--out", out]
    cases = {
        "unknown detector 'nope'": [*fit, "--detector", "nope"],
        "card field 'model' does not match": [
            "score",
            folder / "guard",
            "--data",
            foreign,
            "--out",
            tmp_path / "s.csv",
        ],
        "truncated": ["fit", truncated, "--data", "digits", "--out", out],
        "is no folder of a saved model": ["fit", tmp_path / "no", "--data", "digits", "--out", out],
        "is not a saved model": ["fit", folder / "pictures", "--data", "digits", "--out", out],
        "is not a saved detector": ["score", folder / "glow", "--data", "digits", "--out", tmp_path / "s.csv"],
        "larger than the data": [
            *("evaluate", folder / "glow", "--in-dist", "digits", "--out-dist", folder / "pictures"),
            *("--group-size", 50, "--detector", "likelihood", "--json", tmp_path / "r.json"),
        ],
        "0 groups were given": [*fit, "--group-size", 1000],
        "20 groups were given": [*fit, "--limit", 20],
        "the model was trained on": ["fit", folder / "glow", "--data", "digits[train]", "--out", out],
        "between 0 and 1": [*fit, "--fpr", 2],
        "unknown dtype": [*fit, "--dtype", "float8"],
        "cannot be used": [*fit, "--device", "cuda:99"],
        "no amount of memory": [*fit, "--max-memory", "lots"],
        "expected .csv, .jsonl, .parquet": ["score", folder / "guard", "--data", "digits", "--out", tmp_path / "s.txt"],
        "already holds a model": [*train, "--out", folder / "glow"],
        "nothing to resume": [*train, "--out", out, "--resume"],
        "either steps or minutes": ["train", "glow", "--data", "digits", "--out", out],
        "unknown model family": ["train", "gloww", "--data", "digits", "--steps", 1, "--out", out],
        "levels is 9": [*train, "--out", out, "--levels", 9],
        "device 'cuda:98' cannot be used": [
            *("score", folder / "guard", "--data", "digits", "--device", "cuda:98"),
            *("--out", tmp_path / "s.csv"),
        ],
        "is a folder, expected the name of a file": ["score", folder / "guard", "--data", "digits", "--out", tmp_path],
        "is a file, expected a folder": [*fit[:-1], foreign],
        "is no folder that you may write to": [
            "extract",
            other,
            "--data",
            "digits",
            "--out",
            foreign / "t.safetensors",
        ],
        "minutes=nan": [*train[:4], "--minutes", "nan", "--out", out],
        "Missing option '--out'": ["fit", folder / "glow", "--data", "digits"],
        "No such command": ["fitt"],
    }
    for message, command in cases.items():
        code, printed, err = run(*command)
        assert code == 2, (command, err)
        assert message in err and err.count("\n") == 1, (command, err)
        assert printed == ""
        assert sorted(tmp_path.rglob("*")) == before, command


def test_an_interrupted_command_fails_and_says_so(run, folder, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fisherscope.pipeline.extraction.extract_table", interrupted)
    code, _, err = run("extract", folder / "glow", "--data", "digits", "--out", tmp_path / "t.safetensors")
    assert code == 130 and "interrupted" in err


def test_an_output_that_fails_on_the_way_is_one_line(run, folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "t.safetensors"))

    monkeypatch.setattr("fisherscope.pipeline.extraction.extract_table", full)
    code, _, err = run("extract", folder / "glow", "--data", "digits", "--out", tmp_path / "t.safetensors")
    assert code == 2 and "t.safetensors: No space left on device" in err and err.count("\n") == 1


def test_an_interrupted_training_resumes(run, tmp_path):
    base = ["train", "glow", "--data", "digits", "--out", tmp_path / "m", "--flow-steps", 1, "--hidden", 4]
    assert run(*base, "--steps", 3)[0] == 0
    code, out, _ = run(*base, "--steps", 5, "--resume")
    assert code == 0 and "after 5 steps" in out


def test_every_command_has_an_example_in_its_help(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in ("demo", "train", "extract", "fit", "update", "score", "evaluate"):
        assert command in out
        code, text, _ = run(command, "--help")
        assert code == 0 and f"Example: fisherscope {command}" in text


def test_parse_bytes_and_shape():
    assert [parse_bytes(t) for t in (None, "5", "1.5KB", "2 GiB", "3mb")] == [None, 5, 1500, 2 * 2**30, 3 * 10**6]
    assert parse_shape("3x32X16") == (3, 32, 16)
    for text in ("3x32", "axbxc", ""):
        with pytest.raises(SettingError, match="CxHxW"):
            parse_shape(text)


def test_explain_writes_a_page_and_pictures(run, folder, tmp_path):
    code, out, err = run("explain", folder / "guard", "--data", folder / "pictures", "--out", tmp_path / "why")
    assert (code, err) == (0, "") and "of 10 novel, maps of pixels" in out
    names = {p.name for p in (tmp_path / "why").glob("[!.]*")}
    assert names == {"index.html", "heatmaps", "explanations.json", "layers.csv", "maps.safetensors"}
    assert len(list((tmp_path / "why" / "heatmaps").iterdir())) == 10


def test_rank_takes_a_guard_or_a_model_with_good_samples(run, folder, tmp_path):
    arguments = ("--data", folder / "pictures", "--top", 4, "--out", tmp_path / "r.csv")
    code, out, err = run("rank", folder / "guard", *arguments)
    assert (code, err) == (0, "") and "of 10 discoveries at a false discovery rate of 0.1" in out
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 5
    fit = ("--in-dist", "digits", "--detector", "pixel-mahalanobis")
    code, _, err = run("rank", folder / "glow", *arguments[:-1], tmp_path / "r.html", *fit)
    assert (code, err) == (0, "") and "heat map of" in (tmp_path / "r.html").read_text()
    code, _, err = run("rank", folder / "glow", *arguments, *fit, "--model", "other:make")
    assert code == 2 and "two models were given; --model other:make" in err and err.count("\n") == 1
    code, _, err = run("rank", folder / "glow", *arguments)
    assert code == 2 and "--in-dist DATA" in err and err.count("\n") == 1
    code, _, err = run("rank", folder / "guard", *arguments, *fit, "--group-size", 2)
    assert code == 2 and err.count("\n") == 1
    assert "already fitted: leave out --in-dist, --detector, --group-size, or" in err
    settings = ("--group-size", 2, "--dtype", "float64", "--seed", 3)
    code, out, err = run("rank", folder / "glow", *arguments, *fit, *settings)
    assert (code, err) == (0, "") and "of 5 discoveries" in out


def test_rank_takes_as_many_good_samples_as_there_are(run, folder, tmp_path):
    x = np.load(folder / "test.npy")
    np.save(tmp_path / "good.npy", x[:60])
    np.save(tmp_path / "few.npy", x[:20])
    rank = ("rank", folder / "glow", "--data", folder / "pictures", "--out", tmp_path / "r.csv")
    assert run(*rank, "--in-dist", tmp_path / "good.npy")[0] == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert all(abs(float(r["p_value"]) * 31 - round(float(r["p_value"]) * 31)) < 1e-9 for r in rows)  # 30 calibrate
    code, _, err = run(*rank, "--in-dist", tmp_path / "few.npy")
    assert code == 2 and "21 in all; give more in-distribution samples\n" in err


def test_a_companion_of_the_users_own_is_named_by_every_command(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    np.save("good.npy", np.load(folder / "test.npy")[:60])
    own = ("--companion", "background=mine:make")
    fit = ("fit", folder / "glow", "--data", "good.npy", "--fpr", 0.1, "--detector", "likelihood-ratio", "--out", "g")
    assert run(*fit, *own)[0] == 0
    pictures = ("--data", folder / "pictures")
    leverage = ("--map", "leverage", "--reference", "good.npy")
    for command, out, *options in (("explain", "why", *leverage), ("rank", "r.csv"), ("score", "s.csv")):
        code, _, err = run(command, "g", *pictures, "--out", out, *options)
        assert code == 2 and "--companion background=package.module:factory" in err and not Path(out).exists()
        code, _, err = run(command, "g", *pictures, "--out", out, *options, *own)
        assert (code, err) == (0, "") and Path(out).exists()
    fresh = ("--in-dist", "good.npy", "--detector", "likelihood-ratio")
    code, _, err = run("rank", folder / "glow", *pictures, "--out", "again.csv", *fresh, *own)
    assert (code, err) == (0, "") and Path("again.csv").is_file()


OWN_DETECTOR = """
import numpy as np
from fisherscope import Detector
from fisherscope.detectors import Differentiable

class Surprise(Detector, Differentiable):
    name = "surprise"
    requires = ("log_p",)

    def _fit(self, table):
        self.usual_ = table.block("log_p").mean()

    def _score(self, table):
        return self.usual_ - table.block("log_p").mean(1)

    def _cotangent(self, table):
        log_p = table.block("log_p")
        return {"log_p": np.full(log_p.shape, -1 / log_p.shape[1])}
"""


def test_a_detector_of_your_own_explains_and_ranks(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    (tmp_path / "my_detectors.py").write_text(OWN_DETECTOR)
    own, pictures = "my_detectors:Surprise", ("--data", folder / "pictures")
    fitted = run("fit", folder / "glow", "--data", folder / "test.npy", "--fpr", 0.1, "--detector", own, "--out", "g")
    assert fitted[0] == 0, fitted[2]
    code, _, err = run("explain", "g", *pictures, "--out", "why", "--detector-class", own)
    assert (code, err) == (0, "") and len(list(Path("why/heatmaps").iterdir())) == 10
    code, _, err = run("rank", "g", *pictures, "--out", "r.csv", "--detector-class", own)
    assert (code, err) == (0, "") and len(Path("r.csv").read_text().splitlines()) == 11
    good = ("--in-dist", folder / "test.npy")
    code, _, err = run("rank", folder / "glow", *pictures, "--out", "again.csv", "--detector", own, *good)
    assert (code, err) == (0, "") and Path("again.csv").is_file()
    code, _, err = run("explain", "g", *pictures, "--out", "none")
    assert code == 2 and "--detector-class package.module:Class" in err and err.count("\n") == 1
    code, _, err = run("rank", folder / "glow", *pictures, "--out", "none.csv", "--detector-class", own, *good)
    assert code == 2 and f"name your own detector as --detector {own}" in err and err.count("\n") == 1
    assert not Path("none").exists() and not Path("none.csv").exists()


def test_explain_draws_the_map_that_is_asked_for(run, folder, tmp_path):
    why = ("explain", folder / "guard", "--data", folder / "pictures", "--limit", 2, "--out", tmp_path / "why")
    for kind in ("contrast", "positions", "gradient"):
        code, _, err = run(*why, "--map", kind, "--blur", 1)
        assert (code, err) == (0, "")
        assert json.loads((tmp_path / "why" / "explanations.json").read_text())["method"] == kind
    code, _, err = run(*why, "--map", "leverage")
    assert code == 2 and "give some as the reference" in err
    code, _, err = run(*why, "--map", "leverage", "--reference", folder / "pictures")
    assert (code, err) == (0, "")
    code, _, err = run(*why, "--map", "edges")
    assert code == 2 and "method is 'edges', expected one of: positions, contrast, gradient, leverage" in err


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_to_explain_is_one_line_and_leaves_nothing(run, folder, tmp_path, case):
    make, message = BAD_DATA[case]
    data = make(folder, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for command, out in (("explain", "why"), ("rank", "r.html")):
        code, printed, err = run(command, folder / "guard", "--data", data, "--out", tmp_path / out)
        assert code == 2 and message in err and err.count("\n") == 1 and err.startswith("fisherscope: "), err
        assert printed == "" and sorted(tmp_path.rglob("*")) == before


def test_settings_of_explanations_are_checked_before_the_work(run, folder, tmp_path):
    for options, message in (
        (("explain", "--smooth", -1), "smooth is -1"),
        (("explain", "--noise", 0, "--smooth", 2), "noise is 0"),
        (("rank", "--fdr", 0), "fdr is 0"),
        (("rank", "--top", 0), "top is 0"),
    ):
        command, *rest = options
        out = tmp_path / ("why" if command == "explain" else "r.csv")
        code, _, err = run(command, folder / "guard", "--data", folder / "pictures", "--out", out, *rest)
        assert code == 2 and message in err and err.count("\n") == 1
    code, _, err = run("rank", "no-guard", "--data", "no-data", "--out", tmp_path / "r.csv", "--fdr", 2)
    assert code == 2 and "fdr is 2.0, expected a false discovery rate between 0 and 1" in err
    code, _, err = run("rank", folder / "guard", "--data", "digits", "--out", tmp_path / "r.txt")
    assert code == 2 and "or .html" in err
    code, _, err = run("explain", folder / "guard", "--data", "t.safetensors", "--out", tmp_path / "why")
    assert code == 2 and "holds no samples to explain" in err and not any(tmp_path.iterdir())


def test_sets_of_one_name_in_two_folders_are_told_apart(run, folder, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "new.npy", x)
    outs = [option for name in ("first", "second") for option in ("--out-dist", str(tmp_path / name / "new.npy"))]
    code, out, err = run(
        "evaluate", folder / "glow", "--in-dist", "digits", *outs, "--limit", "60", "--detector", "likelihood"
    )
    assert code == 0 and "first: new.npy" in out and "second: new.npy" in out, err
