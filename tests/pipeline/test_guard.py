"""The engineer's front door."""

import copy
import functools
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import fisherscope
from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.data import Samples
from fisherscope.detectors import (
    STANDARD_DETECTORS,
    Combined,
    detector_names,
    make_detector,
    require_settings_of_name,
)
from fisherscope.detectors.layerwise import Layerwise
from fisherscope.detectors.rao import RaoSketch
from fisherscope.detectors.total_norm import TotalNorm
from fisherscope.evaluation import false_alarm_interval
from fisherscope.models.base import model_fingerprint
from fisherscope.models.vae import VAE
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.explained import write_explanation
from fisherscope.pipeline.extraction import ExtractSettings, extract_table
from fisherscope.pipeline.target import Target


class Gaussian(torch.nn.Module):
    """A model of the user's own."""

    def __init__(self, dims=4):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(dims))
        self.log_std = torch.nn.Parameter(torch.zeros(dims))


def gaussian_log_prob(module, x):
    return torch.distributions.Normal(module.mean, module.log_std.exp()).log_prob(x).sum(1)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(600, 4))


@pytest.fixture(scope="module")
def guard(glow, digits):
    return fisherscope.fit(glow, digits.select(range(400)), fpr=0.05)


def test_a_users_own_module_and_callable(rows):
    guard = fisherscope.fit(Gaussian().double(), rows[:400], log_prob=gaussian_log_prob, fpr=0.05)
    far = rows[400:] + 10
    assert guard.predict(far).all() and guard.p_value(far).max() <= 0.05
    assert guard.predict(rows[400:]).mean() < 0.12
    assert guard.score(far).min() > np.median(guard.score(rows[400:]))


def test_data_may_be_a_pytree(rows):
    def log_prob(module, x):
        return gaussian_log_prob(module, x["a"]) + x["b"][:, 0] * module.mean[0]

    data = {"a": torch.from_numpy(rows), "b": torch.from_numpy(rows[:, :1])}
    guard = fisherscope.fit(Gaussian().double(), data, log_prob=log_prob, fpr=0.05)
    assert guard.score({"a": rows[:7], "b": rows[:7, :1]}).shape == (7,)


def test_verdict_is_one_story(guard, digits):
    verdict = guard.judge(digits.select(range(400, 500)))
    np.testing.assert_array_equal(verdict.novel, verdict.p_value <= 0.05)
    np.testing.assert_array_equal(verdict.novel, verdict.score > guard.calibration.threshold(0.05))
    assert verdict.ids[3] == (digits.ids[403],)


def test_a_verdict_says_what_was_learnt_from(rows, tmp_path):
    module = Gaussian().double()
    settings = {"log_prob": gaussian_log_prob, "detector": "layerwise-gaussian", "fpr": 0.05, "group_size": 2}
    guard = fisherscope.fit(module, rows[:300], **settings)
    some = rows[298:308]
    assert guard.judge(some).known.tolist() == [True, False, False, False, False]
    assert guard.judge(guard.extract(some)).known.tolist() == [True, False, False, False, False]
    guard.save(tmp_path)
    assert fisherscope.load(tmp_path, module, gaussian_log_prob).judge(some).known.sum() == 1
    assert guard.update(rows[300:360]).judge(some).known.all()
    module.train_keys = as_batches(rows[304:305], guard.target).keys
    assert guard.judge(some).known.tolist() == [True, False, False, True, False]


def test_batch_and_order_do_not_matter(guard, digits):
    some = digits.select(range(400, 440))
    scores = guard.score(some)
    np.testing.assert_array_equal(guard.score(some), scores)
    order = np.random.default_rng(1).permutation(40)
    np.testing.assert_allclose(guard.score(some.select(order)), scores[order], rtol=1e-4)
    np.testing.assert_allclose(guard.score(some.select(range(3))), scores[:3], rtol=1e-4)


@pytest.mark.parametrize(
    "detector",
    [
        *STANDARD_DETECTORS,
        "rao-sketch",
        "layerwise-upper@ekfac",
        "rao-layers@whitened-inputs",
        "combined:layerwise-gaussian@diagonal+rao-sketch+pixel-mahalanobis",
    ],
)
def test_save_and_load_in_another_process_gives_identical_scores(glow, digits, tmp_path, detector):
    guard = fisherscope.fit(glow, digits.select(range(200)), detector=detector, fpr=0.05, group_size=2)
    guard.save(tmp_path / "guard")
    some = digits.select(range(200, 240))
    np.save(tmp_path / "x.npy", some.x)
    code = (
        "import sys, numpy as np, fisherscope\n"
        "guard = fisherscope.load(sys.argv[1] + '/guard')\n"
        "verdict = guard.judge(np.load(sys.argv[1] + '/x.npy'))\n"
        "np.savez(sys.argv[1] + '/scores.npz', s=verdict.score, p=verdict.p_value)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    verdict = guard.judge(some.x)
    loaded = np.load(tmp_path / "scores.npz")
    np.testing.assert_array_equal(loaded["s"], verdict.score)
    np.testing.assert_array_equal(loaded["p"], verdict.p_value)


def test_a_users_own_module_is_checked_by_its_fingerprint(rows, tmp_path):
    module = Gaussian().double()
    guard = fisherscope.fit(module, rows, log_prob=gaussian_log_prob, fpr=0.05)
    guard.save(tmp_path)
    loaded = fisherscope.load(tmp_path, module, gaussian_log_prob)
    np.testing.assert_array_equal(loaded.score(rows), guard.score(rows))
    with pytest.raises(ModelError, match="holds no model of its own"):
        fisherscope.load(tmp_path)
    with pytest.raises(CardMismatchError, match="'dtype'"):
        fisherscope.load(tmp_path, Gaussian(), gaussian_log_prob)
    with torch.no_grad():
        module.mean += 1
    with pytest.raises(CardMismatchError, match="'model'"):
        fisherscope.load(tmp_path, module, gaussian_log_prob)


def test_a_name_in_a_file_is_never_imported(guard, digits, tmp_path):
    class Mine(fisherscope.Detector):
        name = "os:system"
        requires = ("log_p",)

        def _fit(self, table):
            self.shift_ = 1.0

        def _score(self, table):
            return -table.block("log_p").sum(1) + self.shift_

    mine = fisherscope.fit(guard.target, digits.select(range(100)), detector=Mine(), fpr=0.1)
    mine.save(tmp_path)
    with pytest.raises(SettingError, match="a detector of your own, 'os:system'"):
        fisherscope.load(tmp_path)
    loaded = fisherscope.load(tmp_path, detector=Mine())
    np.testing.assert_array_equal(loaded.score(digits.x[:5]), mine.score(digits.x[:5]))


def test_an_instance_may_fit_and_load_several_guards(rows, tmp_path):
    class Level(fisherscope.Detector):
        name = "level"
        requires = ("log_p",)

        def _fit(self, table):
            self.mean_ = table.block("log_p").mean()

        def _score(self, table):
            return self.mean_ - table.block("log_p").mean(1)

    level, model = Level(), Gaussian().double()
    first = fisherscope.fit(model, rows[:200], log_prob=gaussian_log_prob, detector=level, fpr=0.05)
    before = first.score(rows[400:])
    second = fisherscope.fit(model, 3 * rows[200:400], log_prob=gaussian_log_prob, detector=level, fpr=0.05)
    np.testing.assert_array_equal(first.score(rows[400:]), before)
    assert not level.state() and (second.score(rows[400:]) != before).any()
    for name, guard in (("a", first), ("b", second)):
        guard.save(tmp_path / name)
    loaded = [fisherscope.load(tmp_path / name, model, gaussian_log_prob, detector=level) for name in ("a", "b")]
    np.testing.assert_array_equal(loaded[0].score(rows[400:]), before)
    assert not level.state()


def test_a_guard_is_loaded_with_the_detector_of_its_fit_alone(guard, digits, tmp_path):
    fisherscope.fit(guard.target, digits.select(range(100)), detector="likelihood", fpr=0.1).save(tmp_path)
    with pytest.raises(CardMismatchError, match=r"'detector'.*'likelihood', found 'watcher'; give the detector of the"):
        fisherscope.load(tmp_path, detector=Watcher())
    assert fisherscope.load(tmp_path, detector=make_detector("likelihood")).detector.name == "likelihood"


@pytest.mark.parametrize(
    "detector",
    [
        RaoSketch(centred=False),
        Layerwise(density="mixture", name="layerwise-upper"),
        Combined([make_detector("likelihood"), RaoSketch(centred=False)], "fisher", "combined:likelihood+rao-sketch"),
        Combined([make_detector("likelihood"), RaoSketch()], "cauchy", "combined:likelihood+rao-sketch"),
        TotalNorm("likelihood"),
    ],
)
def test_a_built_in_name_stands_for_its_settings(guard, digits, detector):
    with pytest.raises(SettingError, match=f"is called '{re.escape(detector.name)}' .*a name of its own"):
        fisherscope.fit(guard.target, digits.select(range(100)), detector=detector, fpr=0.1)


def test_other_settings_are_kept_under_another_name(guard, digits, tmp_path):
    some = digits.select(range(100))
    own = RaoSketch("rao-sketch-of-mine", centred=False)
    mine = fisherscope.fit(guard.target, some, detector=own, fpr=0.1)
    mine.save(tmp_path)
    np.testing.assert_array_equal(fisherscope.load(tmp_path, detector=own).score(some), mine.score(some))


def test_every_built_in_detector_may_be_given_as_an_instance():
    for name in (*detector_names(), "layerwise-upper@diagonal", "combined:fisher-dose+rao-layers-normalised"):
        assert require_settings_of_name(make_detector(name)).name == name


def test_a_fitted_instance_has_the_settings_of_its_name(guard):
    assert require_settings_of_name(guard.detector) is guard.detector


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fpr": "0.05"}, "fpr is '0.05', expected a false-alarm rate between 0 and 1"),
        ({"fpr": None}, "fpr is None"),
        ({"fpr": np.nan}, "fpr is nan"),
        ({"fpr": 1}, "fpr is 1,"),
        ({"group_size": 2.0}, "group_size is 2.0, expected a whole number, at least 1"),
        ({"group_size": 0}, "group_size is 0, expected at least 1"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"seed": None}, "seed is None, expected a whole number"),
        ({"detector": None}, "detector is None, expected a name"),
        ({"detector": RaoSketch}, "detector is <class .*an instance of a fisherscope.Detector"),
    ],
)
def test_settings_are_checked_before_anything_else(setting, message):
    with pytest.raises(SettingError, match=message):
        fisherscope.fit("no folder of a model", "no data", **setting)


def test_settings_may_be_numbers_of_numpy(rows, tmp_path):
    model, settings = Gaussian().double(), {"log_prob": gaussian_log_prob, "detector": "likelihood"}
    plain = fisherscope.fit(model, rows, fpr=0.125, group_size=2, seed=3, **settings)
    guard = fisherscope.fit(model, rows, fpr=np.float32(0.125), group_size=np.int64(2), seed=np.uint8(3), **settings)
    guard.at(np.float64(0.1)).save(tmp_path)
    loaded = fisherscope.load(tmp_path, model, gaussian_log_prob)
    assert loaded.fpr == 0.1 and (guard.fpr, guard.card) == (plain.fpr, plain.card)
    np.testing.assert_array_equal(loaded.score(rows), plain.score(rows))


def test_training_samples_are_refused_unless_asked_for(glow):
    train = fisherscope.load_samples("digits[train]", limit=120)
    with pytest.raises(DataError, match="120 of 120 samples given to fit are samples the model was trained on"):
        fisherscope.fit(glow, train, fpr=0.05)
    fisherscope.fit(glow, train, fpr=0.05, allow_training_samples=True)


def test_tables_are_data_too(guard, glow, digits, make_glow):
    some = digits.select(range(300))
    table = extract_table(guard.target, as_batches(some))
    fitted = fisherscope.fit(glow, table, fpr=0.05)
    np.testing.assert_allclose(fitted.score(table), fitted.score(some), rtol=1e-4)
    other = Target(make_glow(hidden=4), None, "other")
    foreign = extract_table(other, as_batches(some))
    with pytest.raises(CardMismatchError, match="'model'"):
        guard.judge(foreign)
    with pytest.raises(CardMismatchError, match="'model'"):
        fisherscope.fit(glow, foreign)


def test_a_table_has_the_dtype_of_its_model(guard, glow, digits):
    table = extract_table(guard.target, as_batches(digits.select(range(100))))
    with pytest.raises(CardMismatchError, match="'dtype' does not match: expected 'float64', found 'float32'"):
        fisherscope.fit(copy.deepcopy(glow).double(), table, fpr=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refused_before_the_work(rows, dtype):
    with pytest.raises(ModelError, match=r"Gaussian has parameters of b?float16, expected float32 or float64"):
        fisherscope.fit(Gaussian().to(dtype), "no data", log_prob=gaussian_log_prob)


def test_a_table_has_its_group_size(guard, digits):
    table = extract_table(guard.target, as_batches(digits.select(range(200))), settings=ExtractSettings(2))
    for group_size in (None, 2):
        assert fisherscope.fit(guard.target, table, fpr=0.05, group_size=group_size).card.group_size == 2
    for group_size in (1, 5):
        with pytest.raises(SettingError, match=f"group_size is {group_size}, but the feature table holds groups of 2"):
            fisherscope.fit(guard.target, table, fpr=0.05, group_size=group_size)


def test_too_few_samples_names_the_number(glow, digits):
    with pytest.raises(
        DataError, match=r"50 groups .* 0.01 needs 99 to calibrate and .* at least 20 to fit, 119 in all"
    ):
        fisherscope.fit(glow, digits.select(range(50)))
    with pytest.raises(DataError, match="19 groups were given"):
        fisherscope.fit(glow, digits.select(range(99)), group_size=5, fpr=0.05)


def test_a_stricter_rate_than_the_calibration_allows(guard):
    assert guard.at(0.1).fpr == 0.1
    with pytest.raises(DataError, match="at least 999 are needed"):
        guard.at(0.001)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_the_input_is_refused(rows, bad):
    guard = fisherscope.fit(Gaussian().double(), rows, log_prob=gaussian_log_prob, fpr=0.05)
    x = rows[:5].copy()
    x[3, 1] = bad
    with pytest.raises(DataError, match="NaN or inf, first in row 3"):
        guard.score(x)


def test_wrong_shape_says_what_is_expected(guard):
    with pytest.raises(DataError, match="28x28 grey, the model expects 8x8 grey"):
        guard.score(np.zeros((3, 1, 28, 28), np.uint8))


def test_kinds_are_those_that_a_model_is_handed():
    x = np.zeros((2, 3))
    kinds = {np.uint8: "8-bit", np.int64: "integer", np.bool_: "boolean", np.float32: "floating"}
    for dtype, kind in kinds.items():
        assert as_batches(x.astype(dtype)).form == {"": f"{kind} of shape (3,)"}


def test_a_folder_is_loaded_with_the_log_p_that_its_guard_was_fitted_with(glow, digits, tmp_path):
    def negative(module, x):
        return -module.log_prob(x)

    own = {"detector": "likelihood", "fpr": 0.1}
    fisherscope.fit(glow, digits.select(range(60)), **own).save(tmp_path)
    guard = fisherscope.fit(glow, digits.select(range(60)), log_prob=negative, **own)
    guard.save(tmp_path)
    with pytest.raises(ModelError, match="holds no model of its own"):
        fisherscope.load(tmp_path)
    with pytest.raises(ModelError, match="was fitted with a log_prob of its own; pass log_prob="):
        fisherscope.load(tmp_path, glow)
    some = digits.select(range(100, 110))
    np.testing.assert_array_equal(fisherscope.load(tmp_path, glow, negative).score(some), guard.score(some))
    fisherscope.fit(glow, digits.select(range(60)), **own).save(tmp_path)
    with pytest.raises(ModelError, match="was fitted without a log_prob of its own; leave log_prob= out"):
        fisherscope.load(tmp_path, glow, negative)


def test_a_file_in_the_place_of_the_folder_is_one_clear_error(guard, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(DataError, match="taken is a file, expected a folder"):
        guard.save(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_samples_are_of_the_kind_and_shape_of_the_fit(rows, tmp_path):
    def forgiving(module, x):  # takes integers and any number of columns
        return -(x.double() - module.mean[0]).square().flatten(1).sum(1)

    model, settings = Gaussian().double(), {"log_prob": forgiving, "detector": "layerwise-gaussian", "fpr": 0.1}
    fisherscope.fit(model, rows[:100], **settings).save(tmp_path)
    guard = fisherscope.load(tmp_path, model, forgiving)
    assert guard.score(rows[100:110].astype(np.float32)).shape == (10,)
    fitted = r"the guard was fitted on samples that are floating of shape \(4,\)"
    for given, found in (
        (rows[0], r"floating of shape \(\)"),
        (rows[:5, :3], r"floating of shape \(3,\)"),
        (np.arange(8).reshape(2, 4), r"integer of shape \(4,\)"),
        ({"a": rows[:5]}, r"\['a'\] floating of shape \(4,\)"),
    ):
        for use in (guard.score, guard.extract, guard.update, guard.explain):
            with pytest.raises(DataError, match=f"samples are {found}, {fitted}.*x\\[None\\]"):
                use(given)
    assert guard.score(rows[:1]).shape == (1,)


def test_a_model_that_says_its_shape_takes_images_of_both_kinds(guard, digits):
    likelihood = fisherscope.fit(guard.target, digits.select(range(60)), detector="likelihood", fpr=0.1)
    assert likelihood.form is None
    some = digits.x[400:405]
    np.testing.assert_array_equal(likelihood.score(some.astype(np.float32)), likelihood.score(some))


@pytest.mark.parametrize("detector", ["layerwise-gaussian", "typicality"])
def test_false_alarms_are_as_promised(make_glow, digits, detector):
    """Over 20 random splits of the same samples each count lies in its 95 % interval with probability >= 0.95."""
    glow = make_glow(hidden=4)
    blocks = make_detector(detector).requires
    table = extract_table(Target(glow, None, "glow"), as_batches(digits), blocks)
    inside = dict.fromkeys((0.01, 0.05, 0.1), 0)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(digits))
        guard = fisherscope.fit(glow, table.select(order[:400]), detector=detector, fpr=0.01, seed=seed)
        p_values = guard.p_value(table.select(order[400:599]))
        for level in inside:
            low, high = false_alarm_interval(len(guard.calibration.scores), len(p_values), level)
            inside[level] += low <= (p_values <= level).sum() <= high
    assert min(inside.values()) >= 16


class Watcher(fisherscope.Detector):
    """Remembers who was in the fit part; scores minus log p."""

    name = "watcher"
    requires = ("log_p",)
    min_fit = 10

    def _fit(self, table):
        self.fitted = [name for ids in table.ids for name in ids]
        self.groups = table.ids
        self.n_ = len(table)

    def _score(self, table):
        self.scored = [name for ids in table.ids for name in ids]
        return -table.block("log_p").mean(1)


def tracks(n_tracks, length, seed=0, jitter=0.01):
    """Frames of a track are almost the same sample; names tell the track."""
    rng = np.random.default_rng(seed)
    lengths = np.broadcast_to(length, n_tracks)
    x = np.repeat(rng.normal(size=(n_tracks, 4)), lengths, axis=0)
    ids = [f"t{i}-{j}" for i, n in enumerate(lengths) for j in range(n)]
    clusters = [name.split("-")[0] for name in ids]
    return Samples.from_array(x + jitter * rng.normal(size=x.shape), ids, "tracks", clusters=clusters)


def track_of(ids):
    return {name.split("-")[0] for name in ids}


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_no_cluster_both_fits_and_calibrates(seed, group_size):
    samples = tracks(40, np.random.default_rng(seed).integers(2, 15, 40))
    guard = fisherscope.fit(
        Gaussian().double(),
        samples,
        log_prob=gaussian_log_prob,
        detector=Watcher(),
        fpr=0.1,
        seed=seed,
        group_size=group_size,
    )
    watcher = guard.detector
    assert not track_of(watcher.fitted) & track_of(watcher.scored)
    assert len(watcher.fitted) + len(watcher.scored) > len(samples) - 2 * group_size
    assert len(guard.calibration.scores) * group_size == len(watcher.scored)
    assert abs(len(watcher.fitted) - len(watcher.scored)) <= 15 + 2 * group_size
    if group_size == 3:
        assert np.mean([len(track_of(group)) for group in watcher.groups]) > 2


def test_clusters_leave_enough_on_both_sides():
    model = Gaussian().double()
    few = {"log_prob": gaussian_log_prob, "fpr": 0.1}
    for seed in range(10):  # the half lies inside the large track
        guard = fisherscope.fit(model, tracks(3, [60, 20, 12]), detector=Watcher(), seed=seed, **few)
        assert len(guard.detector.fitted) >= 10 and len(guard.calibration.scores) >= 9
    with pytest.raises(DataError, match=r"1 clusters of 90 samples cannot be cut into 2 parts.*more clusters"):
        fisherscope.fit(model, tracks(1, 90), detector=Watcher(), **few)


def test_a_guard_knows_how_few_false_alarms_its_clusters_allow(tmp_path, caplog):
    model, settings = Gaussian().double(), {"log_prob": gaussian_log_prob, "detector": "likelihood"}
    guard = fisherscope.fit(model, tracks(40, 5), fpr=0.1, **settings)
    assert (
        guard.clusters == (5,) * 20 and guard.false_alarm_bound == pytest.approx(0.1 + 0.9 / 21) and not caplog.records
    )
    assert guard.at(0.2).false_alarm_bound == pytest.approx(0.2 + 0.8 / 21)
    guard.save(tmp_path)
    assert fisherscope.load(tmp_path, model, gaussian_log_prob).false_alarm_bound == guard.false_alarm_bound
    independent = fisherscope.fit(model, tracks(40, 5).x, fpr=0.1, **settings)
    assert independent.clusters is None and independent.false_alarm_bound == 0.1
    pairs = fisherscope.fit(model, tracks(40, 5), fpr=0.1, group_size=2, **settings)
    assert len(pairs.clusters) == 20 and pairs.false_alarm_bound is None and not caplog.records
    fisherscope.fit(model, tracks(10, 20), fpr=0.1, **settings)
    (record,) = caplog.records
    assert "come from 5 clusters of 20 to 20 samples" in record.message
    assert "at a mean rate of 0.25, not of 0.1; that takes at least 9 clusters" in record.message


def test_equal_samples_count_once_in_what_a_guard_states(rows, caplog):
    model, settings = Gaussian().double(), {"log_prob": gaussian_log_prob, "detector": "rao-sketch", "fpr": 0.1}
    copies = np.repeat(rows[:12], 10, axis=0)
    guard = fisherscope.fit(model, copies, **settings)
    assert guard.clusters == (10,) * 6 and guard.false_alarm_bound == pytest.approx(0.1 + 0.9 / 7)
    assert "come from 6 clusters" in caplog.records[0].message
    more = guard.update(np.repeat(rows[20:24], 10, axis=0))
    assert more.clusters == (10,) * 8
    table = extract_table(Target(model, gaussian_log_prob, "m"), as_batches(copies), ("sketch",), ExtractSettings())
    assert fisherscope.fit(model, table, **settings).clusters == (10,) * 6


@pytest.mark.parametrize("group_size", [1, 2])
def test_no_sample_both_fits_and_calibrates_where_some_are_equal(rows, group_size):
    model = Gaussian().double()
    settings = {"log_prob": gaussian_log_prob, "detector": Watcher(), "fpr": 0.1, "group_size": group_size}
    twice = np.concatenate([rows[:100], rows[:80]])
    watcher = fisherscope.fit(model, twice, **settings).detector
    numbers = [{int(name[1:-1]) % 100 for name in part} for part in (watcher.fitted, watcher.scored)]
    assert not numbers[0] & numbers[1] and len(numbers[0] | numbers[1]) == 100
    assert len(watcher.fitted) + len(watcher.scored) > 180 - 2 * group_size
    table = extract_table(
        Target(model, gaussian_log_prob, "m"), as_batches(twice), ("log_p",), ExtractSettings(group_size)
    )
    watcher = fisherscope.fit(model, table, **settings).detector
    numbers = [{int(name[1:-1]) % 100 for name in part} for part in (watcher.fitted, watcher.scored)]
    assert not numbers[0] & numbers[1] and len(watcher.fitted) + len(watcher.scored) == 180


def test_equal_samples_of_different_clusters_keep_these_together(rows):
    settings = {"log_prob": gaussian_log_prob, "detector": Watcher(), "fpr": 0.1}
    x, tracks_of = rows[:120].copy(), [f"t{i // 6}" for i in range(120)]
    x[118] = x[1]  # the first and the last track
    samples = Samples.from_array(x, [f"{t}-{i}" for i, t in enumerate(tracks_of)], "tracks", clusters=tracks_of)
    for seed in range(4):
        watcher = fisherscope.fit(Gaussian().double(), samples, seed=seed, **settings).detector
        assert {"t0", "t19"} <= track_of(watcher.fitted) or {"t0", "t19"} <= track_of(watcher.scored)


def test_too_few_different_samples_are_refused(rows):
    settings = {"log_prob": gaussian_log_prob, "detector": Watcher(), "fpr": 0.1}
    with pytest.raises(DataError, match=r"1 clusters of 60 samples cannot be cut .*\(equal samples are one cluster\)"):
        fisherscope.fit(Gaussian().double(), np.repeat(rows[:1], 60, axis=0), **settings)


def test_new_clusters_raise_as_few_false_alarms_as_stated():
    """A detector that learns its fit tracks by heart; frames of a track are all but equal: the worst case."""

    class Nearest(fisherscope.Detector):
        name = "nearest"
        requires = ("pixels",)

        def _fit(self, table):
            self.known_ = table.block("pixels")[:, 0]

        def _score(self, table):
            return np.linalg.norm(table.block("pixels") - self.known_, axis=2).min(1)

    n_tracks, level = 40, 0.1
    alarms, model = [], Gaussian().double()
    for seed in range(25):
        samples = tracks(n_tracks, 5, seed)
        settings = {"log_prob": gaussian_log_prob, "detector": Nearest(), "fpr": level, "seed": seed}
        guard = fisherscope.fit(model, samples, **settings)
        alarms.append(guard.predict(tracks(60, 1, 1000 + seed).x).mean())
    bound = level + (1 - level) / (n_tracks // 2 + 1)
    assert np.mean(alarms) < bound + 3 * np.std(alarms) / 5
    torn = fisherscope.fit(model, replace(samples, clusters=None), **settings)
    assert torn.predict(tracks(60, 1, 1000 + seed).x).mean() > 0.5  # frames of its own tracks calibrate it


def test_columns_go_by_their_names(tmp_path):
    """A file whose columns are in another order is not scored as if they were in the order of the fit."""
    rng = np.random.default_rng(0)
    good = rng.normal(size=(120, 3)) * (1, 10, 100)

    def table(name, header, values):
        path = tmp_path / name
        path.write_text("\n".join([header, *(",".join(map(str, row)) for row in values)]))
        return path

    torch.manual_seed(0)
    settings = {"log_prob": lambda m, x: -m(x).square().sum(1), "detector": "total-norm", "fpr": 0.05}
    guard = fisherscope.fit(torch.nn.Linear(3, 2), table("good.csv", "age,weight,temp", good), **settings)
    guard.save(tmp_path / "guard")
    loaded = fisherscope.load(tmp_path / "guard", module=guard.target.module, log_prob=settings["log_prob"])
    for known in (guard, loaded):
        assert known.sample_columns == ("age", "weight", "temp")
        with pytest.raises(DataError, match="columns temp, weight, age, the guard was fitted on age, weight, temp"):
            known.judge(table("swapped.csv", "temp,weight,age", good[:, ::-1]))
    assert len(guard.judge(good).score) == 120  # an array has no names
    explanation = guard.explain(tmp_path / "good.csv")
    page = write_explanation(explanation, guard.batches(tmp_path / "good.csv"), tmp_path / "page", "")
    assert "<th>weight</th>" in page.read_text()


def test_a_table_of_samples_of_another_kind_is_refused(rows):
    def forgiving(module, x):
        return -(x.double() - module.mean[0]).square().flatten(1).sum(1)

    target = Target(Gaussian().double(), forgiving, "own")
    levels = (np.abs(rows) * 50).clip(0, 255).astype(np.uint8)
    tables = [extract_table(target, as_batches(x), ("grad_norm",)) for x in (levels[:200], levels[:200] * 1.0)]
    for data in (levels[:200], tables[0]):
        guard = fisherscope.fit(target, data, detector="layerwise-gaussian", fpr=0.1)
        assert guard.score(tables[0]).shape == (200,)
        for use in (guard.judge, guard.update):
            with pytest.raises(DataError, match=r"samples are floating of shape .* fitted on samples that are 8-bit"):
                use(tables[1])


def test_a_log_prob_that_nobody_would_ask_is_refused(glow, digits, tmp_path):
    fisherscope.fit(glow, digits.select(range(60)), detector="likelihood", fpr=0.1).save(tmp_path / "guard")
    glow.save(tmp_path / "glow")
    own = {"log_prob": lambda module, x: -module.log_prob(x)}
    for model in (tmp_path / "glow", Target(glow, None, "glow")):
        with pytest.raises(SettingError, match=r"a log_prob was given with .*, which has its own"):
            fisherscope.fit(model, digits.select(range(60)), **own)
    with pytest.raises(SettingError, match="without the module that it asks"):
        fisherscope.load(tmp_path / "guard", **own)


def doubled_log_prob(module, x, factor=2):
    return factor * gaussian_log_prob(module, x)


def test_another_function_of_the_same_file_is_noticed(rows, tmp_path, caplog):
    model = Gaussian().double()
    twice, thrice = (functools.partial(doubled_log_prob, factor=n) for n in (2, 3))
    for fitted, given in ((gaussian_log_prob, doubled_log_prob), (twice, thrice)):
        fisherscope.fit(model, rows[:100], log_prob=fitted, detector="likelihood", fpr=0.1).save(tmp_path)
        caplog.clear()
        fisherscope.load(tmp_path, model, fitted)
        assert not caplog.records
        fisherscope.load(tmp_path, model, given)
        assert "the code of Gaussian, of its log_prob or of a metric is not that of the fit" in caplog.text


def test_a_detector_of_the_users_that_takes_a_built_in_name_is_refused(rows, monkeypatch):
    class Likelihood(TotalNorm):
        def __init__(self):
            super().__init__(name="likelihood")

    monkeypatch.setattr(sys.modules[__name__], "Mine", Likelihood, raising=False)
    with pytest.raises(SettingError, match="called 'likelihood' but is not what that name makes"):
        fisherscope.fit(Gaussian().double(), rows, log_prob=gaussian_log_prob, detector=f"{__name__}:Mine")


def test_what_no_file_can_hold_is_refused_at_the_fit(rows):
    class Wordy(TotalNorm):
        def __init__(self):
            super().__init__(name="wordy")

        def _fit(self, table):
            super()._fit(table)
            self.kind_ = "abc"

    with pytest.raises(SettingError, match="wordy has learnt kind_ = 'abc', which no file can hold"):
        fisherscope.fit(Gaussian().double(), rows, log_prob=gaussian_log_prob, detector=Wordy())


def test_a_subclass_of_a_family_is_not_saved_as_the_family(digits, tmp_path):
    class Shifted(VAE):
        def log_prob(self, x, *, seed=0, keys=None):
            return super().log_prob(x, seed=seed, keys=keys) + 1000

    model = Shifted((1, 8, 8), latents=2, hidden=8).eval()
    guard = fisherscope.fit(model, digits.select(range(60)), detector="likelihood", fpr=0.1)
    guard.save(tmp_path)
    with pytest.raises(ModelError, match="holds no model of its own"):
        fisherscope.load(tmp_path)
    some = digits.select(range(60, 70))
    np.testing.assert_array_equal(fisherscope.load(tmp_path, model).score(some), guard.score(some))


def test_samples_have_the_same_keys_in_whatever_order_a_dict_holds_them(rows):
    one = as_batches({"a": rows[:5], "b": rows[5:10]})
    other = as_batches({"b": rows[5:10], "a": rows[:5]})
    np.testing.assert_array_equal(one.keys, other.keys)
    assert (one.keys != as_batches({"a": rows[5:10], "b": rows[:5]}).keys).all()


@pytest.mark.parametrize(
    "state", [{"words": "abc"}, torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.float8_e4m3fn)]
)
def test_states_of_other_kinds_have_a_fingerprint_or_a_clear_error(state):
    class Extra(Gaussian):
        def get_extra_state(self):
            return state

    model = Extra() if isinstance(state, dict) else Gaussian()
    if isinstance(state, dict):
        with pytest.raises(ModelError, match="holds _extra_state, a dict, by which it cannot be known again"):
            model_fingerprint(model)
    else:
        model.register_buffer("other", state)
        assert model_fingerprint(model) == model_fingerprint(model)


def test_a_table_of_another_log_prob_is_refused(rows):
    model = Gaussian().double()
    target = Target(model, gaussian_log_prob, "m")
    table = extract_table(target, as_batches(rows[:100], target), ("log_p",), ExtractSettings())
    fisherscope.fit(model, table, log_prob=gaussian_log_prob, detector="likelihood", fpr=0.1)
    with pytest.raises(CardMismatchError, match="'own_code' does not match"):
        fisherscope.fit(model, table, log_prob=doubled_log_prob, detector="likelihood", fpr=0.1)
