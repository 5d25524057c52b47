"""Several detectors as one: valid whatever their dependence, which the statistics' own distributions are not."""

import numpy as np
import pytest
from scipy import stats
from tables import table_of

from fisherscope import Detector
from fisherscope.core.errors import SettingError
from fisherscope.detectors import Combined, ConformalCalibration, is_built_in, make_detector
from fisherscope.detectors.likelihood import Likelihood


class Cubed(Detector):
    """A monotone copy of the likelihood's score."""

    name = "cubed"
    requires = ("log_p",)

    def _fit(self, table):
        self.mean_ = table.block("log_p").mean()

    def _score(self, table):
        return (self.mean_ - table.block("log_p").mean(1)) ** 3


class Other(Detector):
    """Reads a block that is independent of log p."""

    name = "other"
    requires = ("regret",)

    def _fit(self, table):
        self.n_ = len(table)

    def _score(self, table):
        return table.block("regret").mean(1)


def table(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return table_of(log_p=rng.normal(-shift, 1, (n, 1)), regret=rng.normal(shift, 1, (n, 1)))


DEPENDENT = [
    lambda rule: Combined([Likelihood(), Likelihood()], rule),
    lambda rule: Combined([Likelihood(), Cubed(), Likelihood()], rule),
]


@pytest.mark.parametrize("rule", ["fisher", "cauchy"])
@pytest.mark.parametrize("make", DEPENDENT, ids=["itself", "monotone copy"])
def test_dependent_members_stay_calibrated(make, rule):
    p_values, naive, ks = [], [], []
    for seed in range(150):
        detector = make(rule).fit(table(120, (seed, 0)))
        calibration, test = (detector.score(table(99, (seed, part))) for part in (1, 2))
        p_values.append(ConformalCalibration.from_scores(calibration).p_value(test))
        ks.append(stats.ks_2samp(calibration, test).pvalue)
        naive.append(stats.chi2.sf(test, 2 * len(detector.reference_)))
    assert min(ks) > 1e-5 and np.mean(np.asarray(ks) < 0.05) < 0.1
    for level in (0.01, 0.05, 0.1):
        alarms = np.mean([(p <= level + 1e-12).mean() for p in p_values])
        # each table's count of 99 is beta-binomial; ties only lower it
        assert alarms < level + 4 * np.sqrt(level * (1 - level) * 2 / 99 / 150)
    if rule == "fisher":
        assert (
            np.mean([(p <= 0.01).mean() for p in naive]) > 0.025
        )  # chi-square of 2M degrees takes them as independent


@pytest.mark.parametrize("rule", ["fisher", "cauchy"])
def test_a_detector_with_its_monotone_copy_is_the_detector(rule):
    """The combination is a monotone function of the one score, so the p-values are those of its ranks.

    To a step: what counts as equal by round-off may be another neighbour.
    """
    detector = Combined([Likelihood(), Cubed()], rule).fit(table(200, 0))
    first, second = table(150, 1), table(150, 2)
    reference = ConformalCalibration(detector.reference_[0])
    ranks = [-reference.continued_p_value(Likelihood().fit(table(9, 0)).score(t)) for t in (first, second)]
    expected = ConformalCalibration.from_scores(ranks[0]).p_value(ranks[1])
    found = ConformalCalibration.from_scores(detector.score(first)).p_value(detector.score(second))
    np.testing.assert_allclose(found, expected, atol=1.01 / 151)


def test_the_statistics_by_hand():
    fit = table(40, 0)
    odd = -fit.block("log_p")[1::2, 0], fit.block("regret")[1::2, 0]
    new = table_of(
        log_p=-np.array([[-3.0], [0.0], [0.7], [5.0], [1e3]]), regret=np.array([[0.1], [-9.0], [4.0], [8.0], [-1.0]])
    )
    scores = -new.block("log_p")[:, 0], new.block("regret")[:, 0]
    fisher, cauchy = (Combined([Likelihood(), Other()], rule).fit(fit).score(new) for rule in ("fisher", "cauchy"))
    for row in range(5):
        at_least = [sum(r >= s[row] for r in reference) for reference, s in zip(odd, scores, strict=True)]
        # beyond all of them, in units of the width of their upper half
        divisors = [1 + max(s[row] - max(r), 0) / (max(r) - sorted(r)[10]) for r, s in zip(odd, scores, strict=True)]
        p = [(1 + count) / 21 / d for count, d in zip(at_least, divisors, strict=True)]
        assert fisher[row] == pytest.approx(-2 * (np.log(p[0]) + np.log(p[1])))
        middle = [(0.5 + count) / 21 / d for count, d in zip(at_least, divisors, strict=True)]
        assert cauchy[row] == pytest.approx(np.mean([np.tan((0.5 - m) * np.pi) for m in middle]))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rule", ["fisher", "cauchy"])
def test_what_is_far_beyond_all_known_groups_raises_an_alarm(rule, seed):
    """Had all groups beyond the reference one score, as many calibration groups there as alarms were allowed."""
    detector = Combined([make_detector("likelihood"), make_detector("typicality")], rule).fit(table(200, (seed, 0)))
    calibration = ConformalCalibration.from_scores(detector.score(table(200, (seed, 1))))
    far = detector.score(table(30, (seed, 2), shift=100))
    assert (calibration.p_value(far) <= 0.01).all()
    farther = [detector.score(table_of(log_p=np.full((1, 1), -x)))[0] for x in (10.0, 11.0, 1e6, 1e12, 1e18)]
    assert (np.diff(farther) > 0).all()


def test_two_weak_detectors_are_stronger_together():
    fit, usual, shifted = table(1000, 0), table(1000, 1), table(1000, 2, shift=1.0)

    def auroc(detector):
        detector.fit(fit)
        ranks = stats.rankdata(np.r_[detector.score(usual), detector.score(shifted)])
        return (ranks[1000:].sum() - 1000 * 1001 / 2) / 1000**2

    alone = max(auroc(Likelihood()), auroc(Other()))
    assert auroc(Combined([Likelihood(), Other()])) > alone + 0.05


def test_names():
    combined = make_detector("combined:rao-sketch@whitened+likelihood")
    assert combined.name == "combined:rao-sketch@whitened+likelihood" and is_built_in(combined.name)
    assert combined.requires == ("sketch:whitened", "log_p") and combined.min_fit == 20
    assert make_detector("combined-cauchy:likelihood+typicality").min_fit == 20
    own = make_detector("combined:likelihood+fisherscope.detectors.typicality:Typicality")
    assert own.requires == ("log_p",) and not is_built_in(own.name)
    for bad, message in {
        "combined:likelihood": "expected two or more",
        "combined:": "expected two or more",
        "combined:likelihood+": "expected two or more",
        "combined:likelihood+combined:typicality+likelihood": "not combined themselves",
        "combined:likelihood+no-such": "unknown detector 'no-such'",
    }.items():
        with pytest.raises(SettingError, match=message):
            make_detector(bad)
    with pytest.raises(SettingError, match="the rule 'mean', expected two or more and one of fisher, cauchy"):
        Combined([Likelihood(), Likelihood()], "mean")
