"""Guards that go on learning: what moves, what stays, and what stays promised."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import fisherscope
from fisherscope.core.errors import CardMismatchError, DataError, NotFittedError, SettingError
from fisherscope.data import Samples
from fisherscope.detectors import Updatable, make_detector, updatable_names
from fisherscope.features.metrics import metric_fingerprint
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.extraction import extract_table


class Gaussian(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Linear(3, 3)


def log_prob(module, x):
    return -0.5 * (x[:, :3] - torch.tanh(module.mean(x[:, 3:]))).square().sum(1)


def rows(n, seed, spread=1.0):
    return spread * np.random.default_rng(seed).normal(size=(n, 6))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Gaussian().double()


def fitted(model, n=100, seed=0, **settings):
    return fisherscope.fit(model, rows(n, seed), **{"log_prob": log_prob, "fpr": 0.1, **settings})


class Witness(Updatable):
    """Remembers whom it has learnt from."""

    name = "witness"
    requires = ("log_p",)

    def _fit(self, table):
        self.learnt = set(table.keys.ravel().tolist())
        self.n_ = len(table)

    def _update(self, table):
        self.learnt |= set(table.keys.ravel().tolist())
        self.n_ += len(table)

    def _score(self, table):
        return -table.block("log_p").mean(1) / self.n_


@pytest.mark.parametrize("group_size", [1, 2])
def test_no_sample_both_fits_and_calibrates(model, group_size):
    guard = fitted(model, detector=Witness(), group_size=group_size)
    before = guard.detector.state(), guard.calibration.scores
    later = guard.update(rows(41, 1)).update(rows(13, 2))
    new = [41 // group_size, 13 // group_size]
    n_fit = 50 // group_size + sum(n // 2 for n in new)
    n_held = 50 // group_size + sum(n - n // 2 for n in new)
    assert later.detector.n_ == n_fit and len(later.calibration.scores) == len(later.held) == n_held
    held = set(later.held.keys.ravel().tolist())
    assert not held & later.detector.learnt
    assert held | later.detector.learnt == set(later.seen.tolist()) and len(later.seen) == (n_fit + n_held) * group_size
    # every calibration group is scored anew, by the detector as it is now
    np.testing.assert_array_equal(later.calibration.scores, np.sort(later.detector.score(later.held)))
    assert guard.detector.state() == before[0]  # this one stays as it is
    np.testing.assert_array_equal(guard.calibration.scores, before[1])


@pytest.mark.parametrize(
    "detector", ["rao-sketch", "rao-layers-normalised", "layerwise-gaussian", "rao-sketch@whitened"]
)
def test_an_update_is_partial_fit_on_half_and_a_rescored_calibration(model, detector):
    guard, new = fitted(model, detector=detector), rows(40, 1)
    later = guard.update(new)
    order = np.random.default_rng(0).permutation(40)
    half = guard.extract(new[order[:20]])
    expected = fitted(model, detector=detector).detector.partial_fit(half)
    for name, value in expected.state().items():
        np.testing.assert_allclose(later.detector.state()[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    if hasattr(guard.detector, "damping_"):
        np.testing.assert_array_equal(later.detector.damping_, guard.detector.damping_)
    assert [metric_fingerprint(m) for m in later.metrics] == [metric_fingerprint(m) for m in guard.metrics]
    assert later.card == guard.card and len(later.calibration.scores) == 70


def test_the_promise_is_kept_after_updates(model):
    alarms = []
    for seed in range(40):
        guard = fitted(model, 60, 3 * seed, detector="rao-sketch").update(rows(60, 3 * seed + 1))
        alarms.append(guard.predict(rows(100, 3 * seed + 2)).mean())
    assert np.mean(alarms) < 0.1 + 3 * np.std(alarms) / np.sqrt(40)


def test_an_update_learns(model):
    """A kind of good sample that the fit saw nothing of stops being novel."""
    guard = fitted(model, detector="rao-sketch")
    assert guard.predict(rows(60, 3, spread=4.0)).mean() > 0.7
    assert guard.update(rows(400, 1, spread=4.0)).predict(rows(60, 3, spread=4.0)).mean() < 0.3


@pytest.mark.parametrize("detector", ["rao-sketch", "total-norm@kfac"])
def test_a_loaded_guard_is_updated_alike(model, tmp_path, detector):
    guard = fitted(model, detector=detector)
    guard.save(tmp_path / "a")
    loaded = fisherscope.load(tmp_path / "a", model, log_prob)
    first, second = guard.update(rows(40, 1)), loaded.update(rows(40, 1))
    first.save(tmp_path / "b")
    third = fisherscope.load(tmp_path / "b", model, log_prob)
    for other in (second, third):
        np.testing.assert_array_equal(other.score(rows(9, 2)), first.score(rows(9, 2)))
        np.testing.assert_array_equal(other.calibration.scores, first.calibration.scores)
        np.testing.assert_array_equal(other.seen, first.seen)
    np.testing.assert_array_equal(
        third.update(rows(40, 3)).score(rows(9, 2)), first.update(rows(40, 3)).score(rows(9, 2))
    )


def test_calibration_groups_that_do_not_belong_to_the_guard_are_noticed(model, tmp_path):
    fitted(model, detector="rao-sketch").save(tmp_path / "a")
    for size in (80, 100):  # of another number of groups, and of as many
        other = fisherscope.fit(model, rows(size, 7), log_prob=log_prob, detector="rao-sketch", fpr=0.1)
        other.save(tmp_path / "b")
        (tmp_path / "b" / "calibration.safetensors").replace(tmp_path / "a" / "calibration.safetensors")
        with pytest.raises(CardMismatchError, match="'calibration groups' does not match"):
            fisherscope.load(tmp_path / "a", model, log_prob)


def test_a_save_that_fails_leaves_the_guard_that_was_there(model, tmp_path, monkeypatch):
    guard, folder = fitted(model, detector="rao-sketch"), tmp_path / "guard"
    guard.save(folder)
    (folder / "notes.txt").write_text("mine")
    later = guard.update(rows(40, 1))

    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("fisherscope.pipeline.guard_files.write_arrays", fail)  # after the calibration groups are written
        with pytest.raises(OSError, match="disk full"):
            later.save(folder)
    np.testing.assert_array_equal(fisherscope.load(folder, model, log_prob).score(rows(9, 2)), guard.score(rows(9, 2)))
    later.save(folder)
    np.testing.assert_array_equal(fisherscope.load(folder, model, log_prob).score(rows(9, 2)), later.score(rows(9, 2)))
    fitted(model).save(folder)  # keeps no calibration groups
    assert {p.name for p in folder.iterdir()} == {
        ".guard.safetensors.files",
        "guard.safetensors",
        "notes.txt",
    }


def test_a_guard_beside_the_files_of_a_model_leaves_them(glow, digits, tmp_path):
    glow.save(tmp_path / "model")
    (tmp_path / "model" / "training.json").write_text("{}")
    guard = fisherscope.fit(glow, digits.select(range(60)), detector="likelihood", fpr=0.1)
    guard.save(tmp_path)
    assert (tmp_path / "model" / "training.json").read_text() == "{}"
    some = digits.select(range(60, 70))
    np.testing.assert_array_equal(fisherscope.load(tmp_path).score(some), guard.score(some))


@pytest.mark.parametrize("name", ["diagonal", "kfac", "ekfac", "low-rank"])
def test_metrics_go_on_learning_with_their_dampings(model, name):
    guard = fitted(model, detector=f"total-norm@{name}")
    before = guard.metrics[0].state()
    later = guard.update(rows(41, 1, spread=3.0))
    assert len(later.calibration.scores) == 21 and later.held is None  # those of before were measured otherwise
    after = later.metrics[0].state()
    frozen = [k for k in before if k.startswith(("damping:", "left:", "right:"))]
    assert frozen
    for key in frozen:
        np.testing.assert_array_equal(after[key], before[key], err_msg=key)
    counted = next(k for k in before if k.startswith(("count:", "rows:")))
    grown = [np.size(s[counted], 0) if counted.startswith("rows:") else int(s[counted]) for s in (before, after)]
    assert grown == [50, 70]
    np.testing.assert_array_equal(guard.metrics[0].state()[counted], before[counted])
    assert later.card.settings["features"] != guard.card.settings["features"]
    table = later.extract(rows(9, 2))
    np.testing.assert_array_equal(later.score(table), later.score(rows(9, 2)))
    with pytest.raises(CardMismatchError, match="settings of metric"):
        guard.score(table)
    with pytest.raises(DataError, match=r"9 new groups were given; .* needs 1 .* 9 new ones to calibrate, 10 in all"):
        guard.update(rows(9, 1))
    with pytest.raises(SettingError, match="metric that learns from samples; give samples, not a table"):
        later.update(table)


def test_tables_are_taken_in_too(model):
    guard, new = fitted(model, detector="rao-sketch"), rows(40, 1)
    table = extract_table(guard.target, as_batches(new), ("sketch", "grad_norm"))
    np.testing.assert_allclose(guard.update(table).score(rows(9, 2)), guard.update(new).score(rows(9, 2)), rtol=1e-9)


def test_clusters_are_kept_whole(model):
    x = rows(60, 1)
    tracks = [f"t{i // 6}" for i in range(60)]
    new = Samples.from_array(x, [f"{t}-{i}" for i, t in enumerate(tracks)], "tracks", clusters=tracks)
    guard = fitted(model, detector=Witness()).update(new)
    halves = {
        t: {bool(k in guard.detector.learnt) for k, u in zip(new.keys, tracks, strict=True) if u == t} for t in tracks
    }
    assert all(len(sides) == 1 for sides in halves.values())


def test_clusters_of_an_update_are_counted(model):
    def clustered(n_tracks, seed):
        names = [f"s{seed}-t{i // 6}" for i in range(6 * n_tracks)]
        ids = [f"{t}-{i}" for i, t in enumerate(names)]
        return Samples.from_array(rows(6 * n_tracks, seed), ids, "tracks", clusters=names)

    settings = {"log_prob": log_prob, "fpr": 0.1}
    guard = fisherscope.fit(model, clustered(20, 0), detector=Witness(), **settings)
    assert guard.clusters == (6,) * 10 and guard.update(clustered(8, 1)).clusters == (6,) * 14
    assert guard.update(rows(40, 1)).clusters == (6,) * 10 + (1,) * 20  # independent samples are a cluster each
    assert fitted(model, detector=Witness()).update(clustered(8, 1)).clusters == (1,) * 50 + (6,) * 4
    assert fitted(model, detector=Witness()).update(rows(40, 1)).clusters is None
    grown = fisherscope.fit(model, clustered(20, 0), detector="total-norm@diagonal", **settings)
    assert grown.clusters == (6,) * 10
    assert grown.update(clustered(30, 1)).clusters == (6,) * 15  # those of before calibrate no more
    assert grown.update(rows(40, 1)).clusters is None


def test_copies_of_another_dtype_were_seen_before(model):
    whole = np.random.default_rng(0).integers(0, 9, (100, 6)).astype(np.int32)
    guard = fisherscope.fit(model, whole, log_prob=lambda m, x: log_prob(m, x.double()), detector=Witness(), fpr=0.1)
    with pytest.raises(DataError, match="100 of 100 samples given to update were given to this guard before"):
        guard.update(whole.astype(np.int64))


@pytest.mark.parametrize("form", ["samples", "table"])
def test_equal_samples_are_kept_together(model, form):
    guard, new = fitted(model, detector=Witness()), np.repeat(rows(30, 1), 2, axis=0)
    given = as_batches(new) if form == "samples" else extract_table(guard.target, as_batches(new), ("log_p",))
    updated = guard.update(given)
    assert not set(updated.held.keys.ravel().tolist()) & updated.detector.learnt
    assert len(updated.held) + updated.detector.n_ == 160


def test_refusals(model, glow, digits):
    guard = fitted(model, detector="rao-sketch")
    with pytest.raises(SettingError, match=r"fisher-dose cannot take in further samples; fit anew .*: .*rao-sketch, "):
        fitted(model).update(rows(40, 1))
    with pytest.raises(DataError, match="3 of 23 samples given to update were given to this guard before"):
        guard.update(np.concatenate([rows(100, 0)[:3], rows(20, 1)]))
    with pytest.raises(DataError, match="20 of 20 samples given to update were given to this guard before"):
        guard.update(rows(20, 1)).update(rows(20, 1))
    with pytest.raises(DataError, match=r"1 new groups were given; rao-sketch needs 1 .* 1 new ones .* 2 in all"):
        guard.update(rows(1, 1))
    with pytest.raises(DataError, match="rao-sketch could not be updated when it was fitted; fit anew"):
        replace(guard, held=None).update(rows(20, 1))
    digit_guard = fisherscope.fit(glow, digits.select(range(60)), detector="layerwise-gaussian", fpr=0.1)
    train = fisherscope.load_samples("digits[train]", limit=12)
    with pytest.raises(DataError, match="12 of 12 samples given to update are samples the model was trained on"):
        digit_guard.update(train)
    assert len(digit_guard.update(train, allow_training_samples=True).calibration.scores) == 36


@pytest.mark.parametrize("name", updatable_names())
def test_there_is_no_update_before_a_fit(name):
    with pytest.raises(NotFittedError, match=f"{name} was asked to take in more groups before it was fitted"):
        make_detector(name).partial_fit(None)
