"""Texts and tables on the command line, from training to scores."""

import csv

import numpy as np
import pytest

from fisherscope.models.base import load_model

SMALL_LANGUAGE = ("--set", "width=8", "--set", "layers=1", "--set", "heads=2", "--steps", "8", "--batch-size", "8")


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    """Run a command line in a folder with two named texts and two tables; return exit code, stdout and stderr."""
    rng = np.random.default_rng(0)
    root = tmp_path / "root"
    (root / "text").mkdir(parents=True)
    letters = np.frombuffer(b"abcdefgh ", np.uint8)
    (root / "text" / "letters.txt").write_bytes(rng.choice(letters, 10000).tobytes())
    (root / "text" / "noise.txt").write_bytes(rng.bytes(3000))
    for name, mean in (("good", 0), ("odd", 4)):
        rows = rng.normal(mean, 1, (200, 3))
        np.savetxt(tmp_path / f"{name}.csv", rows, delimiter=",", header="a,b,c", comments="")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FISHERSCOPE_DATA", str(root))
    return run


def test_a_text_is_trained_on_fitted_scored_and_evaluated(run, tmp_path):
    code, _, err = run(
        "train", "language", "--data", "text/letters.txt", "--window", 16, *SMALL_LANGUAGE, "--out", "lm"
    )
    assert code == 0, err
    assert load_model("lm").data_shape == (16,) and load_model("lm").card.data == "text/letters.txt[train]"
    code, _, err = run("fit", "lm", "--data", "text/letters.txt", "--fpr", "0.1", "--out", "guard")
    assert code == 0, err
    code, out, err = run("score", "guard", "--data", "root/text/noise.txt", "--out", "scores.csv")
    assert code == 0 and f"of {3000 // 16} novel" in out, err
    code, out, err = run("rank", "guard", "--data", "root/text/noise.txt", "--window", 16, "--top", 3, "--out", "r.csv")
    assert code == 0 and "Shown: the 3 most novel" in out, err
    explained = ("explain", "guard", "--data", "root/text/noise.txt", "--limit", 2, "--out", "why")
    assert run(*explained, "--window", 16)[0] == 0
    code, _, err = run(*explained, "--window", 8)
    assert code == 2 and "(8,)" in err
    with (tmp_path / "scores.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)][:2] == ["noise.txt:0", "noise.txt:16"]
    sets = ("--in-dist", "text/letters.txt", "--out-dist", "text/noise.txt", "--detector", "likelihood")
    code, out, err = run("evaluate", "lm", *sets)
    assert code == 0 and "text/noise.txt[test]" in out, err
    code, out, err = run("extract", "lm", "--data", "text/letters.txt", "--limit", 4, "--out", "t.safetensors")
    assert (
        code == 0 and "blocks code_length, grad_norm, log_p, pixels, predictive_length, term_log_p, term_norm" in out
    ), err


def test_a_table_is_trained_on_fitted_and_scored(run, tmp_path):
    pytest.importorskip("zuko", reason="needs fisherscope[flows]")
    small = ("--set", "transforms=1", "--set", "hidden=[8]", "--steps", "60", "--batch-size", "16")
    code, _, err = run("train", "tabular", "--data", "good.csv[train]", *small, "--out", "flow")
    assert code == 0, err
    code, _, err = run("fit", "flow", "--data", "good.csv", "--fpr", "0.1", "--out", "guard")
    assert code == 2 and "160 of 200 samples given to fit are samples the model was trained on" in err
    code, _, err = run("fit", "flow", "--data", "good.csv[test]", "--fpr", "0.1", "--out", "guard")
    assert code == 0, err
    code, out, err = run("score", "guard", "--data", "odd.csv", "--out", "scores.jsonl")
    assert code == 0 and "of 200 novel" in out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "text/words.txt"), "text/letters.txt, text/noise.txt"),
        (("--data", "empty.txt"), "is empty"),
        (("--data", "text/letters.txt", "--window", "99999"), "expected at least one window of 99999 bytes"),
        (("--data", "digits", "--window", "8"), "only texts (.txt) are cut into windows"),
        (("--data", "text/letters.txt", "--split", "val"), "the first 80 % are 'train'"),
        (("--data", "good.csv"), "data_shape is (3,)"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, arguments, message):
    (tmp_path / "empty.txt").write_bytes(b"")
    family = "glow" if "good.csv" in arguments else "language"
    code, _, err = run("train", family, *arguments, "--steps", "1", "--out", "m")
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "m").exists()


def test_a_model_of_pictures_takes_no_text(run):
    code, _, err = run("train", "vae", "--data", "digits", "--steps", 1, "--hidden", 4, "--out", "vae")
    assert code == 0, err
    code, _, err = run("fit", "vae", "--data", "text/letters.txt", "--window", 16, "--out", "g")
    assert code == 2 and "a text needs a model of byte windows" in err
    code, _, err = run("fit", "vae", "--data", "text/letters.txt", "--out", "g")
    assert code == 2 and "give --window" in err
