"""Laws catch what breaks them, and keep quiet otherwise."""

from functools import partial

import numpy as np
import pytest
from torch import Tensor

import fisherscope
from fisherscope.core.errors import DataError
from fisherscope.core.table import FeatureTable
from fisherscope.detectors import Differentiable, Updatable
from fisherscope.features.metrics import CoordinateMoments, FisherMetric, Frame, LayerLengths
from fisherscope.testing import DETECTOR_LAWS, METRIC_LAWS, check_detector, check_metric, synthetic_table
from fisherscope.testing.detector_laws import keep_laws


class Sound(Updatable, Differentiable):
    """Distance of log |f| from its mean, in deviations."""

    name = "sound"
    requires = ("grad_norm",)

    def _fit(self, table):
        logs = self.logs(table)
        self.mean_, self.std_, self.count_ = logs.mean(0), logs.std(0), len(logs)
        if (self.std_ < 1e-9).any():
            raise DataError("the groups are all the same; give different samples")

    def _update(self, table):
        share = len(table) / (self.count_ + len(table))
        self.mean_, self.count_ = (1 - share) * self.mean_ + share * self.logs(table).mean(0), self.count_ + len(table)

    def _score(self, table):
        return ((self.logs(table) - self.mean_) / self.std_).mean(1)

    def _cotangent(self, table):
        norms = table.block("grad_norm")
        return {"grad_norm": 1 / self.std_ / norms.shape[1] / norms}

    def logs(self, table):
        return np.log(table.block("grad_norm"))


def broken(law, **methods):
    return pytest.param(law, type("Broken", (Sound,), methods), id=law)


def in_place(self, table):
    logs = np.log(table.blocks["grad_norm"], out=table.blocks["grad_norm"])
    return ((logs - self.mean_) / self.std_).mean(1)


def hidden(self, table):
    Sound._fit(self, table)
    self.secret = self.mean_.mean()


def random(self, table):
    Sound._fit(self, table)
    self.mean_ = self.mean_ + 1e-3 * np.random.default_rng().normal()


def greedy(self, table):
    if len(table) < 5:
        raise DataError("fewer than five groups")
    Sound._fit(self, table)


def unchecked(self, table):
    logs = self.logs(table)
    self.mean_, self.std_, self.count_ = logs[0], np.ptp(logs, axis=0), len(logs)


def unchecked_deviation(self, table):
    logs = self.logs(table)
    self.mean_, self.std_, self.count_ = logs.mean(0), logs.std(0), len(logs)


def without_underscore(self, table):
    Sound._fit(self, table)
    self.shift = 1.0


def more_state(self, table):
    self.more_ = np.zeros(3)


BROKEN = [
    broken("louder_is_more_novel", _score=lambda self, table: -Sound._score(self, table)),
    broken(
        "scores_depend_on_their_group_alone",
        _score=lambda self, table: Sound._score(self, table) - 1e-3 * Sound._score(self, table).mean(),
    ),
    broken(
        "members_of_a_group_have_no_order",
        requires=("grad_norm", "log_p"),
        _score=lambda self, table: Sound._score(self, table) - 1e-3 * table.block("log_p")[:, 0],
    ),
    broken(
        "what_is_required_suffices",
        _score=lambda self, table: Sound._score(self, table) - 1e-3 * table.block("log_p").mean(1),
    ),
    broken("tables_are_left_alone", _score=in_place),
    broken(
        "state_is_arrays_that_come_back",
        _fit=hidden,
        _score=lambda self, table: Sound._score(self, table) + getattr(self, "secret", 0.0),
    ),
    broken(
        "state_is_arrays_that_come_back",
        _fit=without_underscore,
        _score=lambda self, table: Sound._score(self, table) + self.shift,
    ),
    broken("fits_are_repeatable", _fit=random),
    broken("p_values_are_calibrated", _score=lambda self, table: np.sign(Sound._score(self, table) - 0.5)),
    broken("constant_groups_are_scored_or_refused", _fit=unchecked),
    broken("constant_groups_are_scored_or_refused", _fit=unchecked_deviation),
    broken("extreme_groups_have_finite_scores", _score=lambda self, table: np.exp(20 * Sound._score(self, table))),
    broken("misuse_is_refused", score=lambda self, table: self._score(table)),
    broken("misuse_is_refused", score=lambda self, table: np.zeros(len(table))),
    broken("the_fewest_groups_suffice", _fit=greedy),
    broken("cotangents_are_slopes", _cotangent=lambda self, table: {"grad_norm": np.ones((len(table), 6))}),
    broken(
        "cotangents_are_slopes",
        requires=("grad_norm", "log_p"),
        _score=lambda self, table: Sound._score(self, table) - table.block("log_p").mean(1),
    ),
    broken("updates_take_groups_in", _update=more_state),
]


def test_a_sound_detector_keeps_every_law():
    check_detector(Sound)
    check_detector("fisher-dose@whitened")
    check_detector("combined:total-norm@kfac+likelihood")


def test_there_is_a_broken_detector_for_every_law():
    assert {case.values[0] for case in BROKEN} == set(DETECTOR_LAWS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("law", "kind"), BROKEN)
def test_a_broken_law_is_noticed(law, kind):
    with pytest.raises(AssertionError, match=f"the law '{law}' is broken: "):
        keep_laws({law: partial(DETECTOR_LAWS[law], kind, synthetic_table)})


@pytest.mark.filterwarnings("ignore")
def test_the_message_names_the_law():
    with pytest.raises(AssertionError, match=r"the law 'louder_is_more_novel' is broken: sound: 8 times .* must mean"):
        check_detector(BROKEN[0].values[1])
    with pytest.raises(AssertionError, match=r"'extreme_groups_have_finite_scores' is broken: sound gives inf"):
        check_detector(next(c.values[1] for c in BROKEN if c.values[0] == "extreme_groups_have_finite_scores"))


def test_tables_of_ones_own():
    class Private(fisherscope.Detector):
        name = "private"
        requires = ("private",)

        def _fit(self, table):
            self.n_ = len(table)

        def _score(self, table):
            return table.block("private").mean(1)

    def tables(n, group_size=1, seed=0, loudness=1.0):
        whole = synthetic_table(n, group_size, seed, loudness)
        blocks = {"private": whole.block("regret")}
        return FeatureTable(blocks, {}, whole.ids, whole.keys, whole.card)

    check_detector(Private, tables)
    with pytest.raises(AssertionError, match="has no block 'private'"):
        check_detector(Private)


class SoundMetric(FisherMetric):
    """The diagonal metric in a few lines."""

    stages = 1
    growing = (0,)

    def __init__(self, name="sound"):
        self.name, self._moments, self._frames = name, CoordinateMoments(), {}

    def collector(self, stage):
        return self._moments

    def finish(self, stage):
        self._frames = {
            name: Frame(mean=self._moments.mean(name), weight=self.weight(self._moments.variance(name, centred=True)))
            for name in self._moments.speaking(centred=True)
        }

    def weight(self, variance: Tensor) -> Tensor:
        return 1 / (variance + 0.01 * variance.mean())

    def features(self):
        return (LayerLengths(self.name, self._frames),)

    def state(self):
        return self._moments.state() if self._frames else {}

    def restore(self, state):
        self._moments.restore(state)
        self.finish(0)


class Forgetful(SoundMetric):
    def restore(self, state):
        SoundMetric.restore(self, state)
        self._frames = {k: Frame(weight=f.weight) for k, f in self._frames.items()}


class Upside(SoundMetric):
    def weight(self, variance):
        return -SoundMetric.weight(self, variance)


class Frozen(SoundMetric):
    growing = ()


class Nameless(SoundMetric):
    def features(self):
        return (LayerLengths("other", self._frames),)


def test_a_sound_metric_keeps_every_law():
    check_metric(SoundMetric)
    check_metric("low-rank")
    check_metric(Frozen)


@pytest.mark.parametrize(
    ("law", "kind"),
    [
        ("state_is_arrays_that_come_back", Forgetful),
        ("larger_gradients_are_more_novel", Upside),
        ("larger_gradients_are_more_novel", Nameless),
    ],
)
def test_a_broken_law_of_metrics_is_noticed(law, kind):
    assert law in METRIC_LAWS
    with pytest.raises(AssertionError, match=f"the law '{law}' is broken"):
        check_metric(kind)


def test_a_metric_that_says_it_grows_must():
    class Stubborn(SoundMetric):
        def collector(self, stage):
            return CoordinateMoments() if self._frames else self._moments

    with pytest.raises(AssertionError, match=r"growing stages \(0,\), but an update changed nothing"):
        check_metric(Stubborn)
