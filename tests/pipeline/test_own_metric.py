"""A Fisher metric of the user's own, from its name to a saved guard's verdict."""

import sys

import numpy as np
import pytest
import torch

import fisherscope
from fisherscope.core.errors import CardMismatchError, SettingError
from fisherscope.features.metrics import load_metric, make_metric
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.testing import check_metric

SOURCE = """
from fisherscope.features.metrics import CoordinateMoments, FisherMetric, Frame, LayerLengths


class Root(FisherMetric):
    stages = 1
    growing = ()

    def __init__(self, name):
        self.name, self._moments, self._frames = name, CoordinateMoments(), {}

    def collector(self, stage):
        return self._moments

    def finish(self, stage):
        for name in self._moments.speaking(centred=True):
            mean, variance = self._moments.mean(name), self._moments.variance(name, centred=True)
            self._frames[name] = Frame(mean=mean, weight=(variance + 0.01 * variance.mean()).rsqrt())

    def features(self):
        return (LayerLengths(self.name, self._frames),)

    def state(self):
        return self._moments.state() if self._frames else {}

    def restore(self, state):
        self._moments.restore(state)
        self.finish(0)


class Renamed(Root):
    def __init__(self, name):
        super().__init__("something")


class NoMetric:
    pass
"""
NAME = "own_metric:Root"


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield NAME
    sys.modules.pop("own_metric", None)


def test_names(own):
    metric = make_metric(own)
    assert metric.name == own and metric.growing == ()
    for name, message in {
        "nope": r"unknown metric 'nope'; known: .*, or your own as package.module:Class",
        "no_such_module:Root": "metric 'no_such_module:Root' cannot be imported",
        "own_metric:Missing": "metric 'own_metric:Missing' cannot be imported",
        "own_metric:NoMetric": "expected a subclass of fisherscope.features.metrics.FisherMetric",
        "own_metric:Renamed": "made a metric called 'something', expected it to keep the name",
    }.items():
        with pytest.raises(SettingError, match=message):
            make_metric(name)


def test_it_keeps_the_laws(own):
    check_metric(own)


def test_a_name_in_a_file_is_never_imported(own, glow, digits, tmp_path):
    guard = fisherscope.fit(glow, digits.select(range(80)), detector=f"total-norm@{own}", fpr=0.1)
    guard.save(tmp_path / "guard")
    expected = guard.score(digits.x[80:90])
    del sys.modules["own_metric"]
    with pytest.raises(
        SettingError, match=r"'own_metric:Root', which is no metric of the library; pass an unfitted one"
    ):
        fisherscope.load(tmp_path / "guard")
    (path,) = (tmp_path / "guard" / "metrics").iterdir()
    with pytest.raises(SettingError, match=r"holds a metric of your own, 'own_metric:Root'; give an unfitted one"):
        load_metric(path)
    assert "own_metric" not in sys.modules
    loaded = fisherscope.load(tmp_path / "guard", metrics=[make_metric(own)])
    np.testing.assert_array_equal(loaded.score(digits.x[80:90]), expected)
    other = fisherscope.fit(glow, digits.select(range(100, 180)), detector=f"total-norm@{own}", fpr=0.1)
    other.save(tmp_path / "other")
    path.write_bytes(next((tmp_path / "other" / "metrics").iterdir()).read_bytes())
    with pytest.raises(CardMismatchError, match=f"'metric {own}'"):
        fisherscope.load(tmp_path / "guard", metrics=[make_metric(own)])


def test_an_instance_by_a_name_of_ones_own(own, tmp_path):
    root = type(make_metric(own))
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 1).double(), np.random.default_rng(0).normal(size=(80, 4))

    def log_prob(model, x):
        return -(x[:, 3] - model(x[:, :3])[:, 0]).square()

    guard = fisherscope.fit(
        model, x, log_prob=log_prob, detector="layerwise-upper@root", metrics=[root("root")], fpr=0.1
    )
    guard.save(tmp_path / "guard")
    loaded = fisherscope.load(tmp_path / "guard", model, log_prob, metrics=[root("root")])
    np.testing.assert_array_equal(loaded.score(x), guard.score(x))
    with pytest.raises(SettingError, match="unknown metric 'root'"):
        fisherscope.fit(model, x, log_prob=log_prob, detector="layerwise-upper@root", fpr=0.1)


def test_an_instance_may_fit_and_load_several_guards(own, tmp_path):
    root = type(make_metric(own))("root")
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 1).double(), np.random.default_rng(0).normal(size=(200, 4))

    def log_prob(model, x):
        return -(x[:, 3] - model(x[:, :3])[:, 0]).square()

    settings = {"log_prob": log_prob, "detector": "layerwise-upper@root", "metrics": [root], "fpr": 0.1}
    first = fisherscope.fit(model, x[:80], **settings)
    before = first.score(x[160:])
    first.save(tmp_path / "a")
    fisherscope.fit(model, 3 * x[80:160], **settings).save(tmp_path / "b")
    np.testing.assert_array_equal(first.score(x[160:]), before)
    loaded = [fisherscope.load(tmp_path / name, model, log_prob, metrics=[root]) for name in ("a", "b")]
    np.testing.assert_array_equal(loaded[0].score(x[160:]), before)
    assert not root.state()


def test_it_is_evaluated_beside_the_others(own, target, digits):
    faces = as_batches(fisherscope.load_samples("faces[test]", resize=(1, 8, 8), limit=20))
    settings = EvaluationSettings(detectors=("total-norm", f"total-norm@{own}"), replicates=40)
    records = evaluate(target, as_batches(digits.select(range(80))), [faces], settings).records
    assert [r.detector for r in records] == ["total-norm", f"total-norm@{own}"]


def test_on_the_command_line(own, run, glow, digits, tmp_path):
    glow.save(tmp_path / "glow")
    np.save(tmp_path / "good.npy", digits.x[:80])
    np.save(tmp_path / "new.npy", digits.x[80:90])
    fit = ("fit", tmp_path / "glow", "--data", tmp_path / "good.npy", "--fpr", 0.1, "--out", tmp_path / "guard")
    assert run(*fit, "--detector", f"total-norm@{own}")[0] == 0
    score = ("score", tmp_path / "guard", "--data", tmp_path / "new.npy", "--out", tmp_path / "s.csv")
    code, _, err = run(*score)
    assert code == 2 and "--metric-class package.module:Class" in err
    code, out, _ = run(*score, "--metric-class", own)
    assert code == 0 and "of 10 novel" in out
    update = ("update", tmp_path / "guard", "--data", tmp_path / "new.npy", "--out", tmp_path / "later")
    code, out, _ = run(*update, "--metric-class", own)
    assert code == 0 and "calibrated on 45 groups" in out
    rank = ("rank", tmp_path / "glow", "--data", tmp_path / "new.npy", "--in-dist", tmp_path / "good.npy")
    code, _, err = run(*rank, "--out", tmp_path / "r.csv", "--metric-class", own)
    assert code == 2 and f"such as --detector total-norm@{own}" in err
