"""Each rival against a calculation by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.svm import OneClassSVM
from tables import table_of

from fisherscope.core.errors import DataError
from fisherscope.detectors import make_detector


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
