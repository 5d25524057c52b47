"""Rao's statistic against explicit inverses."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tables import table_of

from fisherscope.core.errors import DataError
from fisherscope.detectors import make_detector


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("centred", [True, False])
def test_rao_sketch_against_the_explicit_inverse(rng, group_size, centred):
    fit = rng.normal(size=(30, group_size, 7)) @ rng.normal(size=(7, 7)) + 2
    new = rng.normal(size=(5, group_size, 7)) * 3
    detector = make_detector("rao-sketch" if centred else "rao-sketch-uncentred")
    got = detector.fit(table_of(group_size, sketch=fit)).score(table_of(group_size, sketch=new))
    flat = fit.reshape(-1, 7)
    m = flat.mean(0) if centred else np.zeros(7)
    inverse = np.linalg.inv(group_size * ((flat - m).T @ (flat - m) / len(flat) + detector.damping_ * np.eye(7)))
    d = new.sum(1) - group_size * m
    np.testing.assert_allclose(got, [row @ inverse @ row for row in d], rtol=1e-8)


def test_rao_of_a_group_of_typical_samples_does_not_grow_with_the_group(rng):
    fit, new = rng.normal(size=(2000, 1, 8)), rng.normal(size=(2000, 5, 8))
    detector = make_detector("rao-sketch").fit(table_of(sketch=fit))
    one, five = detector.score(table_of(sketch=new[:, :1])), detector.score(table_of(5, sketch=new))
    assert abs(one.mean() - 8) < 1 and abs(five.mean() - 8) < 1


def test_rao_sketch_works_from_50_samples_of_many_dimensions(rng):
    spectrum = 1 / np.arange(1, 513) ** 0.5
    fit, held_out = rng.normal(size=(50, 1, 512)) * spectrum, rng.normal(size=(300, 1, 512)) * spectrum
    novel = rng.normal(size=(300, 1, 512)) * spectrum[::-1]
    detector = make_detector("rao-sketch").fit(table_of(sketch=fit))
    calm, loud = (detector.score(table_of(sketch=s)) for s in (held_out, novel))
    assert roc_auc_score(np.r_[np.zeros(300), np.ones(300)], np.r_[calm, loud]) > 0.95


def test_partial_fit_is_a_fit_of_all_with_the_damping_kept(rng):
    first, second = rng.normal(size=(30, 2, 6)), rng.normal(size=(17, 2, 6)) * 2 + 1
    grown = make_detector("rao-sketch").fit(table_of(2, sketch=first))
    damping = grown.damping_
    grown.partial_fit(table_of(2, sketch=second))
    whole = make_detector("rao-sketch").fit(table_of(2, sketch=np.concatenate([first, second])))
    assert grown.damping_ == damping and grown.count_ == 94
    np.testing.assert_allclose(grown.mean_, whole.mean_, rtol=1e-12)
    np.testing.assert_allclose(grown.covariance_, whole.covariance_, rtol=1e-12)


def test_a_direction_never_seen_is_novel_and_finite(rng):
    fit = rng.normal(size=(40, 1, 6))
    fit[..., 5] = 0
    detector = make_detector("rao-sketch").fit(table_of(sketch=fit))
    new = np.zeros((2, 1, 6))
    new[1, 0, 5] = 1.0
    scores = detector.score(table_of(sketch=new))
    assert np.isfinite(scores).all() and scores[1] > scores[0] + 1


def test_equalised_layers_have_equal_votes(rng):
    fit = rng.normal(size=(60, 1, 8, 3)) * np.array([1e3, 1.0, 1e-3]) + 5
    fit[..., 2] = 7.0  # a layer that says nothing
    detector = make_detector("rao-sketch-equalised").fit(table_of(layer_sketch=fit))
    assert detector.scale_[2] == 0
    sizes = ((fit - fit.mean((0, 1))) ** 2).sum(2).mean((0, 1))
    np.testing.assert_allclose(detector.scale_[:2] ** 2 * sizes[:2], 1, rtol=1e-10)
    same = make_detector("rao-sketch").fit(table_of(sketch=fit @ detector.scale_))
    new = rng.normal(size=(4, 1, 8, 3))
    np.testing.assert_allclose(
        detector.score(table_of(layer_sketch=new)), same.score(table_of(sketch=new @ detector.scale_)), rtol=1e-10
    )


@pytest.mark.parametrize("name", ["rao-layers", "rao-layers-normalised"])
def test_layers_add_up(rng, name):
    fit, new = rng.normal(size=(40, 2, 5, 3)) * [1, 10, 0.1], rng.normal(size=(6, 2, 5, 3))
    detector = make_detector(name).fit(table_of(2, layer_sketch=fit))
    want = 0
    for layer in range(3):
        single = make_detector("rao-sketch").fit(table_of(2, sketch=fit[..., layer]))
        part = single.score(table_of(2, sketch=new[..., layer]))
        if name == "rao-layers-normalised":
            matrix = single.covariance_ + single.damping_ * np.eye(5)
            part = part / np.trace(np.linalg.solve(matrix, single.covariance_))
        want = want + part
    np.testing.assert_allclose(detector.score(table_of(2, layer_sketch=new)), want, rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "block", "shape"),
    [
        ("rao-sketch", "sketch", (20, 1, 8)),
        ("rao-sketch-equalised", "layer_sketch", (20, 1, 8, 2)),
        ("rao-layers", "layer_sketch", (20, 1, 8, 2)),
    ],
)
def test_gradients_that_are_all_the_same_are_refused(name, block, shape):
    with pytest.raises(DataError, match=f"{name} was given fit samples whose gradients are all the same"):
        make_detector(name).fit(table_of(**{block: np.full(shape, 0.1)}))


def test_too_few_fit_samples_names_the_number():
    with pytest.raises(DataError, match="9 fit groups of 1, it needs at least 10"):
        make_detector("rao-sketch").fit(table_of(sketch=np.ones((9, 1, 8))))
