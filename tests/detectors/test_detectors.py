"""Each detector against a calculation by other means."""

import math

import numpy as np
import pytest
from scipy import stats
from tables import table_of

from fisherscope.core.errors import DataError, NotFittedError, SettingError
from fisherscope.detectors import make_detector
from fisherscope.detectors.pixel_mahalanobis import PixelMahalanobis


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_layerwise_gaussian_is_minus_the_log_density_of_log_f(rng):
    fit, new = rng.chisquare(3, (50, 4)), rng.chisquare(3, (7, 4))
    got = make_detector("layerwise-gaussian").fit(table_of(grad_norm=fit)).score(table_of(grad_norm=new))
    v = np.log(fit)
    want = -sum(stats.norm.logpdf(np.log(new[:, j]), v[:, j].mean(), v[:, j].std(ddof=1)) for j in range(4))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_layerwise_gaussian_drops_constant_and_round_off_layers(rng):
    fit = rng.chisquare(3, (50, 4))
    fit[:, 1] = 2.0
    fit[:, 2] = 1e-33 * rng.chisquare(3, 50)  # zero by symmetry: round-off of a gradient of size 1
    detector = make_detector("layerwise-gaussian").fit(table_of(grad_norm=fit))
    assert detector.kept_.tolist() == [0, 3]
    alone = make_detector("layerwise-gaussian").fit(table_of(grad_norm=fit[:, [0, 3]]))
    np.testing.assert_allclose(
        detector.score(table_of(grad_norm=fit)), alone.score(table_of(grad_norm=fit[:, [0, 3]])), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["fisher-dose", "layerwise-gaussian", "layerwise-upper", "layerwise-upper@kfac"])
def test_layers_that_the_score_does_not_see_are_told(rng, name):
    fit = rng.chisquare(3, (50, 4))
    fit[:, 1] = 2.0
    fit[:30, 2] = 0.0  # active in 20 of 50 fit samples
    blocks = {"grad_norm": fit, "term_norm": fit, "term_log_p": rng.normal(size=(50, 1, 1))}
    blocks |= {code: rng.uniform(50, 60, (50, 1)) for code in ("code_length", "predictive_length")}
    table = table_of(**blocks, **{"metric:kfac": fit[:, None]})
    detector = make_detector(name)
    with pytest.raises(NotFittedError, match=f"{name} knows no layers.*call fit first"):
        _ = detector.dropped_layers
    state = detector.fit(table).state()
    names = ("1", "2") if "@" in name else ("l1", "l2")
    assert detector.dropped_layers == dict(zip((1, 2), names, strict=True))
    assert make_detector(name).restore(state).dropped_layers == detector.dropped_layers
    assert sorted([*detector.kept_, *detector.dropped_layers]) == [0, 1, 2, 3]
    scaled = fit * [1, 1, 1e9, 1]
    blocks |= {"grad_norm": scaled, "term_norm": scaled}
    table_again = table_of(**blocks, **{"metric:kfac": scaled[:, None]})
    np.testing.assert_array_equal(detector.score(table_again), detector.score(table))


def test_layerwise_gaussian_of_an_unreached_layer_is_large_and_finite(rng):
    fit = rng.chisquare(3, (50, 2))
    detector = make_detector("layerwise-gaussian").fit(table_of(grad_norm=fit))
    score = detector.score(table_of(grad_norm=np.array([[0.0, 1.0]])))
    assert np.isfinite(score).all() and score[0] > detector.score(table_of(grad_norm=fit)).max()


def test_layerwise_gaussian_needs_a_layer_that_varies():
    with pytest.raises(DataError, match="no layer's gradient norm varies"):
        make_detector("layerwise-gaussian").fit(table_of(grad_norm=np.ones((5, 3))))


def test_total_norm_is_the_sum(rng):
    norms = rng.random((6, 3))
    detector = make_detector("total-norm").fit(table_of(grad_norm=norms))
    np.testing.assert_allclose(detector.score(table_of(grad_norm=norms)), [sum(row) for row in norms.tolist()])


def test_likelihood_of_a_group_is_minus_its_mean(rng):
    log_p = rng.normal(-100, 5, (6, 3))
    detector = make_detector("likelihood").fit(table_of(3, log_p=log_p))
    np.testing.assert_allclose(detector.score(table_of(3, log_p=log_p)), [-math.fsum(r) / 3 for r in log_p.tolist()])


def test_typicality_by_hand():
    detector = make_detector("typicality").fit(table_of(2, log_p=np.array([[-10.0, -12.0], [-14.0, -16.0]])))
    assert detector.entropy_ == 13.0
    scores = detector.score(table_of(2, log_p=np.array([[-13.0, -13.0], [-10.0, -12.0], [-20.0, -10.0]])))
    np.testing.assert_allclose(scores, [0.0, 2.0, 2.0])


@pytest.mark.parametrize("n_fit", [12, 200])
def test_pixel_mahalanobis_against_the_explicit_inverse(rng, n_fit):
    from sklearn.covariance import LedoitWolf

    fit = rng.integers(0, 256, (n_fit, 2, 1, 3, 3), dtype=np.uint8)
    new = rng.integers(0, 256, (4, 2, 1, 3, 3), dtype=np.uint8)
    got = PixelMahalanobis().fit(table_of(2, pixels=fit)).score(table_of(2, pixels=new))
    estimate = LedoitWolf().fit(fit.reshape(-1, 9).astype(float))
    want = estimate.mahalanobis(new.reshape(-1, 9).astype(float)).reshape(4, 2).mean(1)
    np.testing.assert_allclose(got, want, rtol=1e-8)


def test_unknown_detector_lists_the_known_ones():
    with pytest.raises(SettingError, match="unknown detector 'nope'; known: fisher-dose, layerwise-gaussian"):
        make_detector("nope")
    with pytest.raises(SettingError, match="cannot be imported"):
        make_detector("no.such.module:Thing")
    with pytest.raises(SettingError, match="expected a subclass"):
        make_detector("math:pi")


def test_too_few_fit_groups():
    with pytest.raises(DataError, match="1 fit groups of 1, it needs at least 2"):
        make_detector("layerwise-gaussian").fit(table_of(grad_norm=np.ones((1, 3))))


def test_a_score_before_fit_is_an_error():
    with pytest.raises(NotFittedError, match="before it was fitted"):
        make_detector("typicality").score(table_of(log_p=np.zeros((3, 1))))


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((7, 2)), np.array(["a"] * 7)])
def test_a_detector_of_ones_own_has_to_score_every_group(rng, wrong):
    class Own(PixelMahalanobis):
        def _score(self, table):
            return wrong

    detector = Own().fit(table_of(pixels=rng.normal(size=(50, 1, 1, 2, 2))))
    with pytest.raises(DataError, match="for 7 groups, expected a number for each"):
        detector.score(table_of(pixels=rng.normal(size=(7, 1, 1, 2, 2))))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rao-layers@kfac", "'kfac' has none for it; the metrics that do: countsketch"),
        ("rao-layers@gaussian", "'gaussian' has none for it"),
        ("rao-sketch@diagonal", "the metrics that do: .*gaussian"),
        ("total-norm@gaussian", "a sketch of the whole gradient alone"),
    ],
)
def test_a_metric_that_cannot_fill_what_a_detector_reads_is_refused(name, message):
    with pytest.raises(SettingError, match=message):
        make_detector(name)


def test_a_class_that_cannot_be_made_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "own_detectors.py").write_text(
        "from fisherscope import Detector\nclass Bare(Detector): ...\n"
        "class Needs(Bare):\n    def __init__(self, width): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for kind in ("Bare", "Needs"):
        with pytest.raises(SettingError, match=f"'own_detectors:{kind}' cannot be made without arguments"):
            make_detector(f"own_detectors:{kind}")
