"""The page of the Fisher metrics, on scores that are made up."""

import numpy as np
import pytest

from fisherscope.evaluation import PairScores, auroc, resample_pair
from fisherscope.features.metrics import metric_names


@pytest.fixture
def metrics(import_script):
    return import_script("study_metrics")


def case(metrics, family, size, shifts):
    inside = np.arange(40.0)
    pair = PairScores(
        in_dist="mnist",
        out_dist="fashion_mnist",
        group_size=size,
        scores_in=dict.fromkeys(shifts, inside),
        scores_out={name: inside + shift for name, shift in shifts.items()},
    )
    return metrics.Case(family, resample_pair(pair, seed=0, replicates=50))


def test_every_metric_is_one(metrics):
    assert set(metrics.METRICS) < set(metric_names())


def test_the_page_compares_each_detector_with_itself_on_plain_norms(metrics):
    shifts = dict.fromkeys(metrics.DETECTORS, 5.0)
    shifts |= {metrics.in_metric(d, m): 5.0 for d in metrics.DETECTORS for m in metrics.METRICS}
    shifts["total-norm@kfac"] = 20.0
    without = {name: shift for name, shift in shifts.items() if not name.endswith("@ekfac")}
    cases = [case(metrics, "glow", size, shifts) for size in (1, 5)]
    cases += [case(metrics, "vae", size, without) for size in (1, 5)]
    page, figures = metrics.write_page(cases, "python some.py")
    assert "Written by `python some.py`" in page and "- vae: mnist → fashion_mnist, 40 test and 40 OOD samples" in page
    (found,) = (
        m for m in figures["means"] if (m["models"], m["group_size"], m["detector"]) == ("all", 5, "total-norm@kfac")
    )
    inside = np.arange(40.0)
    gain = auroc(inside, inside + 20) - auroc(inside, inside + 5)
    assert found["difference"][0] == pytest.approx(gain, abs=1e-4) and found["difference"][1] > 0
    same = [m["difference"] for m in figures["means"] if m["detector"] == "layerwise-upper@diagonal"]
    assert same == [[0, 0, 0]] * 6
    tables = page.split("## ")
    assert "| ekfac | – | – | – | – |" in next(t for t in tables if t.startswith("All models, B = 1"))
    assert "| ekfac | – |" not in next(t for t in tables if t.startswith("Models of glow, B = 1"))
    assert len(figures["cells"]) == 4
