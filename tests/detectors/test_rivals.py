"""Each rival against a calculation by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture
from sklearn.svm import OneClassSVM
from tables import table_of

from fisherscope.core.errors import DataError
from fisherscope.detectors import gaussian_mixture, make_detector
from fisherscope.detectors.gaussian_mixture import fit_mixture, mixture_log_density


def test_typicality_fisher_by_hand():
    # H = 14; typicality of the fit groups: 3, 1, 1, 5. Score statistics: sums over members and layers.
    log_p = -np.array([[10.0, 12.0], [14.0, 16.0], [13.0, 13.0], [18.0, 20.0]]) + 0.375
    log_p = log_p - log_p.mean() - 14.0
    shares = np.array([[[1.0, 2.0], [0.0, 1.0]], [[1, 1], [1, 1]], [[5, 1], [0, 0]], [[0, 0], [0, 8.0]]])
    block = "metric:diagonal-uncentred"
    detector = make_detector("typicality-fisher").fit(table_of(2, **{"log_p": log_p, block: shares}))
    assert math.isclose(detector.entropy_, 14.0)
    typical = [abs(-row.mean() - 14.0) for row in log_p]
    new_log_p = -np.array([[14.0, 14.0], [30.0, 30.0], [14.0, 18.2]])
    new = np.array([[[0.0, 0.0], [0.0, 1.0]], [[9, 9], [9, 9]], [[2.0, 2.0], [2.5, 0.0]]])
    scores = detector.score(table_of(2, **{"log_p": new_log_p, block: new}))
    for i, score in enumerate(scores):
        t, s = abs(-new_log_p[i].mean() - 14.0), new[i].sum()
        p_t = (1 + sum(v >= t for v in typical)) / 5
        p_s = (1 + sum(v >= s for v in (4.0, 4.0, 6.0, 8.0))) / 5
        assert math.isclose(score, -2 * math.log(p_t * p_s), rel_tol=1e-12)
    assert scores[0] == 0.0 and math.isclose(scores[1], -4 * math.log(1 / 5))


def test_dose_kde_is_the_sum_of_one_dimensional_kernel_densities():
    rng = np.random.default_rng(0)
    fit, new = rng.normal(size=(40, 1, 3)) * [1, 10, 0] + [5, 0, 2], rng.normal(size=(6, 2, 3))
    detector = make_detector("dose-kde").fit(table_of(statistics=fit))
    assert detector.kept_.tolist() == [0, 1]
    densities = [stats.gaussian_kde(fit[:, 0, j], bw_method="scott") for j in range(2)]
    want = -sum(densities[j].logpdf(new[:, :, j].ravel()) for j in range(2)).reshape(6, 2).mean(1)
    np.testing.assert_allclose(detector.score(table_of(2, statistics=new)), want, rtol=1e-10)


def test_dose_svm_is_scikit_learns():
    rng = np.random.default_rng(0)
    fit, new = rng.normal(size=(60, 1, 3)) * [1, 10, 3] + 5, 3 * rng.normal(size=(6, 2, 3))
    detector = make_detector("dose-svm").fit(table_of(statistics=fit))
    mean, std = fit[:, 0].mean(0), fit[:, 0].std(0, ddof=1)
    z = (fit[:, 0] - mean) / std
    svm = OneClassSVM(nu=0.1, gamma=1 / (3 * z.var())).fit(z)
    want = -svm.decision_function((new.reshape(12, 3) - mean) / std).reshape(6, 2).mean(1)
    np.testing.assert_allclose(detector.score(table_of(2, statistics=new)), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dose-kde", "dose-svm"])
def test_constant_statistics_are_an_error(name):
    with pytest.raises(DataError, match=f"no statistic varies over the 20 fit samples of {name}"):
        make_detector(name).fit(table_of(statistics=np.ones((20, 1, 2))))


@pytest.mark.parametrize("name", ["dose-kde", "dose-svm"])
def test_round_off_is_no_statistic(name):
    rng = np.random.default_rng(0)
    last_digit = np.float32(2**-11)  # of a float32 near 5,000
    constant = np.float32(-5000) + last_digit * rng.integers(-1, 2, 200).astype(np.float32)
    fit = np.stack([rng.normal(-100, 5, 200), constant], 1)[:, None]
    detector = make_detector(name).fit(table_of(dtype="float32", statistics=fit))
    assert detector.kept_.tolist() == [0]
    moved = fit + np.array([0, 6 * last_digit])
    scores = [detector.score(table_of(dtype="float32", statistics=given)) for given in (fit, moved)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("pixels", [np.eye(2)[np.arange(200) % 2], np.repeat([[0.0] * 4, [255.0] * 4], 100, axis=0)])
def test_pixels_of_two_kinds_have_a_distance(pixels):
    detector = make_detector("pixel-mahalanobis").fit(table_of(pixels=pixels[:, None]))
    other = pixels[:2] + np.eye(1, pixels.shape[1])
    known, new = (detector.score(table_of(pixels=x[:, None])) for x in (pixels, other))
    np.testing.assert_allclose(known, 1.0, rtol=1e-6)
    assert np.isfinite(new).all() and (new > known[0]).all()


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_the_mixture_is_scikit_learns_whatever_its_form(form, monkeypatch):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(60, 2)) @ [[1, 0.9], [0, 0.3]], rng.normal(size=(60, 2)) + 6])
    rng.shuffle(points)
    new = 3 * rng.normal(size=(7, 2))
    monkeypatch.setattr(gaussian_mixture, "_candidates", lambda shape: [(2, form)])
    got = mixture_log_density(new, fit_mixture(points))
    mean, std = points.mean(0), points.std(0, ddof=1)
    mixture = GaussianMixture(2, covariance_type=form, reg_covar=1e-3, max_iter=200, random_state=0)
    want = mixture.fit((points - mean) / std).score_samples((new - mean) / std)
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_held_out_likelihood_finds_the_number_of_components():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]])
    points = centres[rng.integers(4, size=400)] + rng.normal(size=(400, 2))
    assert len(fit_mixture(points)["weights"]) == 4
    assert len(fit_mixture(rng.normal(size=(400, 2)))["weights"]) == 1


@pytest.mark.parametrize(("name", "block"), [("msma", "score_norms"), ("diffpath-6d", "path_statistics")])
def test_mixture_scores_are_means_over_members(name, block):
    rng = np.random.default_rng(0)
    fit, new = rng.normal(size=(30, 2, 3)), rng.normal(size=(5, 2, 3))
    fit[:, :, 1] = 4.0
    detector = make_detector(name).fit(table_of(2, **{block: fit}))
    pairs = detector.score(table_of(2, **{block: new}))
    single = detector.score(table_of(1, **{block: new.reshape(10, 1, 3)}))
    np.testing.assert_allclose(pairs, single.reshape(5, 2).mean(1), rtol=1e-12)
    kept = fit.reshape(60, 3)[:, [0, 2]]
    np.testing.assert_allclose(single, -mixture_log_density(new.reshape(10, 3)[:, [0, 2]], fit_mixture(kept)))


def test_scoped_is_the_larger_of_two_surprises():
    rng = np.random.default_rng(0)
    fit, new = rng.normal(size=(40, 1, 2)) * [1, 5], 2 * rng.normal(size=(6, 1, 2))
    scores = make_detector("scoped").fit(table_of(score_curvature=fit)).score(table_of(score_curvature=new))
    densities = [stats.gaussian_kde(fit[:, 0, j], bw_method="scott") for j in range(2)]
    want = [max(-densities[j].logpdf(row[0, j])[0] for j in range(2)) for row in new]
    np.testing.assert_allclose(scores, want, rtol=1e-10)


def test_waic_by_hand():
    log_p = np.array([[[-10.0, -12.0, -14.0], [-1.0, -1.0, -1.0]], [[-3.0, -5.0, -4.0], [0.0, 2.0, 1.0]]])
    table = table_of(2, ensemble_log_p=log_p)
    # Variances 8/3 and 0, means -12 and -1; then 2/3 and 2/3, -4 and 1.
    want = [(8 / 3 + 12 + 1) / 2, (2 / 3 + 4 + 2 / 3 - 1) / 2]
    np.testing.assert_allclose(make_detector("waic").fit(table).score(table), want, rtol=1e-14)


def test_likelihood_ratio_by_hand():
    blocks = {"log_p": np.array([[-10.0, -20.0]]), "background_log_p": np.array([[-12.0, -15.0]])}
    table = table_of(2, **blocks)
    assert make_detector("likelihood-ratio").fit(table).score(table).tolist() == [1.5]


def test_ddpm_ood_is_the_mean_z_score():
    rng = np.random.default_rng(0)
    fit, new = rng.gamma(2.0, size=(30, 2, 4)), rng.gamma(4.0, size=(5, 2, 4))
    fit[:, :, 2] = 0.5
    scores = make_detector("ddpm-ood-mse-ssim").fit(table_of(2, restoration=fit)).score(table_of(2, restoration=new))
    flat = fit.reshape(60, 4)
    for score, pair in zip(scores, new, strict=True):
        z = [(row[j] - flat[:, j].mean()) / flat[:, j].std(ddof=1) for row in pair for j in (0, 1, 3)]
        assert math.isclose(score, math.fsum(z) / 6, rel_tol=1e-10)
