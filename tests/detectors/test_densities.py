"""Each density over the layers against scipy, scikit-learn or arithmetic."""

import tracemalloc

import mpmath
import numpy as np
import pytest
from scipy import stats
from tables import table_of

from fisherscope.core.errors import DataError, SettingError
from fisherscope.detectors import make_detector
from fisherscope.detectors.densities import components as densities_components
from fisherscope.detectors.densities import density_names, make_density
from fisherscope.detectors.densities.chi_square import gamma_shape
from fisherscope.detectors.densities.components import components, principal_axes
from fisherscope.detectors.densities.one_class import mean_path_length


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def fit(rng):
    mixed = rng.normal(size=(120, 5)) @ rng.normal(size=(5, 5))
    return rng.chisquare(3, (120, 5)) * np.exp(0.3 * mixed) * np.logspace(-6, 6, 5)


@pytest.fixture
def new(rng):
    return rng.chisquare(3, (9, 5)) * np.logspace(-6, 6, 5) * np.exp(rng.normal(size=(9, 5)))


def scores(density, fit, new, **kwargs):
    detector = make_detector(f"layerwise-{density}")
    return detector.fit(table_of(grad_norm=fit, **kwargs)).score(table_of(grad_norm=new))


def z_of(fit, new):
    v = np.log(fit)
    return (np.log(new) - v.mean(0)) / v.std(0, ddof=1)


def test_upper_counts_only_larger_gradients(fit, new):
    want = [sum(max(z, 0) ** 2 for z in row) for row in z_of(fit, new)]
    np.testing.assert_allclose(scores("upper", fit, new), want, rtol=1e-10)


def test_fishers_method_sums_log_p(fit, new):
    z = z_of(fit, new)
    two = [-2 * sum(np.log(2 * stats.norm.sf(abs(x))) for x in row) for row in z]
    np.testing.assert_allclose(scores("fisher", fit, new), two, rtol=1e-10)
    upper = [-2 * sum(np.log(stats.norm.sf(x)) for x in row) for row in z]
    np.testing.assert_allclose(scores("fisher-upper", fit, new), upper, rtol=1e-10)


def test_ledoit_wolf_against_scikit_learn(fit, new):
    from sklearn.covariance import LedoitWolf

    estimate = LedoitWolf(assume_centered=True).fit(z_of(fit, fit))
    np.testing.assert_allclose(scores("ledoit-wolf", fit, new), estimate.mahalanobis(z_of(fit, new)), rtol=1e-8)


def test_chi_square_with_fitted_degrees_of_freedom_is_a_gamma_fit(fit, new):
    want = np.zeros(9)
    upper = np.zeros(9)
    for layer in range(5):
        a, _, scale = stats.gamma.fit(fit[:, layer] / fit[:, layer].mean(), floc=0)
        f = new[:, layer] / fit[:, layer].mean()
        # density of v = log f; the units of f only shift v
        want -= stats.gamma.logpdf(f, a, scale=scale) + np.log(f)
        upper -= stats.gamma.logsf(f, a, scale=scale)
    np.testing.assert_allclose(scores("chi2", fit, new), want, rtol=1e-5)
    np.testing.assert_allclose(scores("chi2-upper", fit, new), upper, rtol=1e-5)


def test_chi_square_by_size(fit, new):
    sizes = [7, 2, 40, 1, 300]
    settings = {"features": {"grad_norm": {"sizes": sizes}}}
    want, upper = np.zeros(9), np.zeros(9)
    for layer, n in enumerate(sizes):
        scale = fit[:, layer].mean() / n
        f = new[:, layer]
        want -= stats.chi2.logpdf(f, n, scale=scale) + np.log(f)
        upper -= stats.chi2.logsf(f, n, scale=scale)
    np.testing.assert_allclose(scores("chi2-size", fit, new, settings=settings), want, rtol=1e-8)
    np.testing.assert_allclose(scores("chi2-size-upper", fit, new, settings=settings), upper, rtol=1e-8)
    with pytest.raises(DataError, match="does not say how many parameters"):
        scores("chi2-size", fit, new)


def test_the_density_of_log_f_integrates_to_one():
    density = make_density("chi2-size")
    v = np.linspace(-40, 10, 20001)[:, None]
    learnt = density.fit(np.zeros((2, 1)), np.array([3]))
    np.testing.assert_allclose(np.trapezoid(np.exp(-density.score(v, learnt)), v[:, 0]), 1, rtol=1e-6)


def test_the_upper_tail_where_it_underflows():
    density = make_density("chi2-upper")
    learnt = density.fit(np.log(np.random.default_rng(0).chisquare(3, (200, 1))), None)
    a, scale = learnt["freedom"][0] / 2, 2 * np.exp(learnt["log_scale"][0])
    u = np.array([600.0, 660.0, 672.0, 1e3, 1e8])
    want = [-float(mpmath.log(mpmath.gammainc(a, x, regularized=True))) for x in u]
    np.testing.assert_allclose(density.score(np.log(u * scale)[:, None], learnt), want, rtol=1e-6)


@pytest.mark.parametrize("a", [0.05, 0.5, 3.0, 200.0, 1e5])
def test_gamma_shape_solves_its_equation(a):
    from scipy.special import digamma

    np.testing.assert_allclose(gamma_shape(np.array([np.log(a) - digamma(a)])), a, rtol=1e-5)


def test_principal_components_are_uncorrelated_with_unit_variance(fit):
    v = np.log(fit)
    points = components(v, principal_axes(v))
    np.testing.assert_allclose(np.cov(points.T), np.eye(points.shape[1]), atol=1e-10)


def test_mixture_against_scikit_learn(rng):
    from sklearn.mixture import GaussianMixture

    labels = rng.integers(0, 2, 300)
    v = rng.normal(size=(300, 3)) * [1, 0.5, 0.2] + 6 * labels[:, None]
    density = make_density("mixture")
    learnt = density.fit(v, None)
    assert len(learnt["weights"]) == 2
    points = components(v, learnt)
    model = GaussianMixture(2, reg_covar=1e-3, max_iter=1000, random_state=0).fit(points)
    np.testing.assert_allclose(density.score(v, learnt), -model.score_samples(points), rtol=1e-8)
    middle = np.full((1, 3), 3.0)
    assert density.score(middle, learnt) > np.quantile(density.score(v, learnt), 0.99)


def test_kernel_density_against_scikit_learn(fit, new):
    from sklearn.neighbors import KernelDensity

    density = make_density("kde")
    learnt = density.fit(np.log(fit), None)
    model = KernelDensity(bandwidth=float(learnt["bandwidth"])).fit(learnt["points"])
    want = -model.score_samples(components(np.log(new), learnt))
    np.testing.assert_allclose(density.score(np.log(new), learnt), want, rtol=1e-8)
    others = [
        -KernelDensity(bandwidth=float(learnt["bandwidth"]))
        .fit(np.delete(learnt["points"], i, 0))
        .score_samples(learnt["points"][i : i + 1])[0]
        for i in range(len(fit))
    ]
    for factor in (0.5, 2.0):
        worse = [
            -KernelDensity(bandwidth=factor * float(learnt["bandwidth"]))
            .fit(np.delete(learnt["points"], i, 0))
            .score_samples(learnt["points"][i : i + 1])[0]
            for i in range(len(fit))
        ]
        assert np.mean(others) < np.mean(worse)


def test_one_class_svm_from_its_arrays(fit, new):
    from sklearn.svm import OneClassSVM

    model = OneClassSVM(nu=0.1, gamma="scale").fit(z_of(fit, fit))
    np.testing.assert_allclose(scores("svm", fit, new), -model.decision_function(z_of(fit, new)), rtol=1e-7)


def test_isolation_forest_from_its_arrays(fit, new):
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=200, random_state=0).fit(z_of(fit, fit))
    np.testing.assert_allclose(scores("forest", fit, new), -model.score_samples(z_of(fit, new)), rtol=1e-10)


def test_mean_path_length_of_small_trees():
    np.testing.assert_allclose(mean_path_length(np.array([1, 2])), [0, 1])
    assert mean_path_length(np.array([256]))[0] == pytest.approx(10.244770920116851)


def test_normalised_sum(fit, new):
    want = [sum(f / m for f, m in zip(row, fit.mean(0), strict=True)) for row in new]
    np.testing.assert_allclose(scores("normalised-sum", fit, new), want, rtol=1e-10)


@pytest.mark.parametrize("density", density_names())
def test_silent_layers_are_dropped(fit, new, density):
    def padded(values):
        return np.column_stack([np.full(len(values), 2.0), values, np.full(len(values), 1e-40)])

    settings = {"features": {"grad_norm": {"sizes": [3, 5, 5, 5, 5, 5, 3]}}}
    inner = {"features": {"grad_norm": {"sizes": [5, 5, 5, 5, 5]}}}
    np.testing.assert_allclose(
        scores(density, padded(fit), padded(new), settings=settings),
        scores(density, fit, new, settings=inner),
        rtol=1e-6,
    )


def test_shares_of_members_add_up_to_the_groups_number(rng):
    shares = rng.chisquare(3, (40, 2, 3))
    both = table_of(2, **{"metric:mine": shares})
    alone = make_detector("layerwise-upper").fit(table_of(2, grad_norm=shares.sum(1)))
    from fisherscope.detectors.layerwise import Layerwise

    found = Layerwise("upper", "mine", "metric:mine").fit(both).score(both)
    np.testing.assert_allclose(found, alone.score(table_of(2, grad_norm=shares.sum(1))), rtol=1e-12)


def test_unknown_density():
    with pytest.raises(SettingError, match="unknown density 'nope'; known: upper, fisher"):
        make_density("nope")


def test_kernel_density_is_computed_in_pieces(fit, monkeypatch):
    """By the definition, with all distances at once; pieces of 3 rows of 120 change neither fit, score nor slope."""
    density, v = make_density("kde"), np.log(fit)
    new = np.random.default_rng(1).normal(size=(50, 5)) * v.std(0) + v.mean(0)
    whole = density.fit(v, None)
    points, h = components(new, whole), float(whole["bandwidth"])
    squares = np.square(points[:, None] - whole["points"]).sum(2)
    kernels = np.exp(-squares / (2 * h**2)) / (2 * np.pi * h**2) ** (points.shape[1] / 2)
    scores = density.score(new, whole)
    np.testing.assert_allclose(scores, -np.log(kernels.mean(1)), rtol=1e-12)
    most = []
    real = densities_components.cdist
    monkeypatch.setattr(densities_components, "_CHUNK_ELEMENTS", 370)
    monkeypatch.setattr(densities_components, "cdist", lambda *a: most.append(len(a[0])) or real(*a))
    pieces = density.fit(v, None)
    assert pieces["bandwidth"] == whole["bandwidth"]
    np.testing.assert_array_equal(density.score(new, pieces), scores)
    slopes = density.gradient(new, pieces)
    assert max(most) == 3
    monkeypatch.undo()
    np.testing.assert_allclose(slopes, density.gradient(new, whole), rtol=1e-12)


def test_kernel_density_needs_no_memory_for_all_coordinates_of_all_pairs(fit):
    density, v = make_density("kde"), np.log(fit)
    learnt, many = density.fit(v, None), np.repeat(v, 300, axis=0)
    tracemalloc.start()
    try:
        density.score(many, learnt)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(many) * len(v) * 2  # two numbers a pair
