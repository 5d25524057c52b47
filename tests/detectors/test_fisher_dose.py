"""The density of layer profile and log p, against the same by hand."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture
from tables import table_of

from fisherscope.detectors import make_detector
from fisherscope.detectors.fisher_dose import COMPONENTS
from fisherscope.evaluation.metrics import auroc


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def correlated(rng, n, group_size=1, layers=14, dims=3, seed=5):
    """Norms of ``layers`` layers that ``dims`` hidden numbers decide, and a log p that follows the first of them."""
    loadings = np.random.default_rng(seed).normal(size=(dims, layers))
    hidden = rng.normal(size=(n, dims))
    logs = hidden @ loadings + 0.05 * rng.normal(size=(n, layers))
    log_p = -100 + 10 * hidden[:, :1] + rng.normal(size=(n, group_size))
    return {"grad_norm": np.exp(logs), "log_p": log_p}


@pytest.mark.parametrize("group_size", [1, 4])
def test_it_is_a_mixture_on_principal_components_and_the_mean_log_p(rng, group_size):
    fit, new = correlated(rng, 300, group_size), correlated(rng, 50, group_size)
    detector = make_detector("fisher-dose").fit(table_of(group_size, **fit))
    logs = np.log(fit["grad_norm"])
    mean, std = logs.mean(0), logs.std(0, ddof=1)
    _, singular, axes = np.linalg.svd((logs - mean) / std, full_matrices=False)
    k = int(np.searchsorted(np.cumsum(singular**2) / np.sum(singular**2), 0.95)) + 1
    assert k == 3 < COMPONENTS
    scale = singular[:k] / np.sqrt(len(logs) - 1)

    def statistics(blocks):
        components = ((np.log(blocks["grad_norm"]) - mean) / std) @ axes[:k].T / scale
        log_p, known = blocks["log_p"].mean(1), fit["log_p"].mean(1)
        return np.column_stack([components, (log_p - known.mean()) / known.std(ddof=1)])

    fits = [GaussianMixture(m, reg_covar=1e-3, max_iter=1000, random_state=0).fit(statistics(fit)) for m in range(1, 5)]
    want = -min(fits, key=lambda m: m.bic(statistics(fit))).score_samples(statistics(new))
    np.testing.assert_allclose(detector.score(table_of(group_size, **new)), want, rtol=1e-9)


def test_it_sees_a_combination_that_no_layer_shows_by_itself(rng):
    fit, test, novel = (correlated(rng, n) for n in (600, 300, 300))
    novel["log_p"] = -200 - novel["log_p"]  # every layer and log p keep their distributions, their relation turns
    inside, outside = table_of(**test), table_of(**novel)
    by_itself = {"layerwise-gaussian": 0.5, "typicality": 0.5}
    for name, want in by_itself.items():
        detector = make_detector(name).fit(table_of(**fit))
        assert auroc(detector.score(inside), detector.score(outside)) == pytest.approx(want, abs=0.08)
    detector = make_detector("fisher-dose").fit(table_of(**fit))
    assert auroc(detector.score(inside), detector.score(outside)) > 0.8


def test_a_constant_log_p_says_nothing(rng):
    fit = correlated(rng, 200)
    fit["log_p"][:] = -7.1
    detector = make_detector("fisher-dose").fit(table_of(**fit))
    scores = detector.score(table_of(**fit))
    np.testing.assert_array_equal(np.isfinite(scores), np.ones(200, bool))
    assert (
        np.corrcoef(scores, np.square((np.log(fit["grad_norm"]) - detector.mean_) / detector.std_).sum(1))[0, 1] > 0.5
    )


def test_its_slope_is_the_derivative_of_its_score(rng):
    from fisherscope.detectors.cotangent import score_cotangent

    fit, new = correlated(rng, 200, 2), correlated(rng, 3, 2)
    detector = make_detector("fisher-dose").fit(table_of(2, **fit))
    slope = score_cotangent(detector, table_of(2, **new))
    for block, place in (("grad_norm", (1, 5)), ("log_p", (1, 1))):
        step = 1e-5 * abs(new[block][place])
        moved = []
        for sign in (1, -1):
            copy = {k: v.copy() for k, v in new.items()}
            copy[block][place] += sign * step
            moved.append(detector.score(table_of(2, **copy))[1])
        assert slope[block][place] == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5)
