"""The page of further training runs, on scores that are made up."""

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.evaluation import PairScores, auroc, resample_pair


@pytest.fixture
def study(import_script):
    return import_script("study_runs")


def run(study, model, seed, shift, *, out_dists=("mnist",), sizes=(1, 5)):
    """Return a run whose default has OOD scores ``shift`` above its own, and whose other detectors have 5."""
    inside = np.arange(40.0)
    cases = []
    for out_dist in out_dists:
        for size in sizes:
            outside = dict.fromkeys(study.DETECTORS, inside + 5.0) | {"fisher-dose": inside + shift}
            pair = PairScores(model, out_dist, size, dict.fromkeys(study.DETECTORS, inside), outside)
            cases.append(study.Case("glow", resample_pair(pair, seed=0, replicates=50)))
    return study.Run(model, seed, {"validation": 3.0 + seed}, tuple(cases))


def level(shift):
    inside = np.arange(40.0)
    return auroc(inside, inside + shift)


def apart(*shifts):
    return np.std([level(shift) for shift in shifts], ddof=1)


def test_training_and_samples_move_a_figure_each_by_its_own_amount(study):
    shifts = {"glow-a": (5.0, 15.0), "glow-b": (10.0, 10.0)}
    runs = [run(study, model, seed, s) for model, two in shifts.items() for seed, s in enumerate(two)]
    page, figures = study.write_page(runs, "python some.py")
    moved = next(f for f in figures["levels"] if (f["detector"], f["group_size"]) == ("fisher-dose", 1))
    deviation = apart(5.0, 15.0)
    assert moved["training"] == pytest.approx(deviation / np.sqrt(2), abs=1e-4)  # the other model did not move
    assert moved["training_of_mean"] == pytest.approx(deviation / 2, abs=1e-4)
    assert moved["mean"] == pytest.approx(np.mean([level(s) for two in shifts.values() for s in two]), abs=1e-4)
    assert 0 < moved["samples_of_mean"] <= moved["samples"] + 1e-4
    still = [f for f in figures["levels"] if f["detector"] == "typicality"]
    assert [f["training"] for f in still] == [0.0, 0.0] and all(f["samples"] > 0 for f in still)
    assert "`glow-a`, seeds 0, 1 (validation bits per dimension 3.000, 4.000), against mnist: 40 test" in page
    assert f"| glow-a → mnist | 5 | {level(5.0):.3f}, {level(15.0):.3f} |" in page


def test_pairs_of_one_model_have_their_training_in_common(study):
    both = [run(study, "glow-a", seed, s, out_dists=("mnist", "gtsrb")) for seed, s in enumerate((5.0, 15.0))]
    alone = [run(study, "glow-a", seed, s) for seed, s in enumerate((5.0, 15.0))]
    of_both, of_one = (study.write_page(runs, "")[1]["levels"][0] for runs in (both, alone))
    assert of_both["training_of_mean"] == pytest.approx(of_one["training_of_mean"], abs=1e-4)
    page, _ = study.write_page(both, "")
    assert "over 9 models" in page and f"`fisher-dose` by {apart(5.0, 15.0) / 3:.3f}, and" in page


def test_without_further_runs_there_is_no_page(study, tmp_path, monkeypatch):
    class NoPlaces:
        cases = ()

    monkeypatch.setattr(study, "grid_context", lambda *args: NoPlaces())
    with pytest.raises(DataError, match="trained more than once"):
        study.main(["--work", str(tmp_path), "--docs", str(tmp_path)])
    assert not list(tmp_path.iterdir())
