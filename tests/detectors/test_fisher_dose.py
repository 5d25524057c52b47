"""The density of layer profile and log p, against the same by hand."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture
from tables import table_of

from fisherscope.core.errors import DataError, SettingError
from fisherscope.detectors import make_detector
from fisherscope.detectors.cotangent import score_cotangent
from fisherscope.detectors.fisher_dose import COMPONENTS, FisherDose
from fisherscope.detectors.summary import CODES
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
    code, predictive = np.exp(4 + 0.3 * hidden[:, 1:2] + 0.1 * rng.normal(size=(2, n, group_size)))
    return {
        "term_norm": np.exp(logs),
        "log_p": log_p,
        "term_log_p": log_p[..., None],
        "code_length": code,
        "predictive_length": predictive,
    }


def test_several_threads_may_ask_one_detector(rng):
    def three_terms(n):
        parts = [correlated(np.random.default_rng([seed, n]), n, dims=dims) for seed, dims in enumerate((2, 3, 6))]
        joined = {name: np.concatenate([p[name] for p in parts], axis=-1) for name in ("term_norm", "term_log_p")}
        return table_of(1, **{**parts[0], **joined})

    detector, new = FisherDose().fit(three_terms(300)), three_terms(8)
    expected, interval = detector.score(new), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: detector.score(new), range(200)))
    finally:
        sys.setswitchinterval(interval)
    assert all((scores == expected).all() for scores in found)


def mixture_of(points):
    fits = [GaussianMixture(m, reg_covar=1e-3, max_iter=1000, random_state=0).fit(points) for m in range(1, 5)]
    return min(fits, key=lambda m: m.bic(points))


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("name", ["fisher-dose", "gradient-dose", "complexity-dose"])
def test_it_is_two_mixtures_one_with_and_one_without_the_layers(rng, name, group_size):
    fit, new = correlated(rng, 300, group_size), correlated(rng, 50, group_size)
    detector = make_detector(name).fit(table_of(group_size, **fit))
    logs = np.log(fit["term_norm"])
    mean, std = logs.mean(0), logs.std(0, ddof=1)
    _, singular, axes = np.linalg.svd((logs - mean) / std, full_matrices=False)
    k = int(np.searchsorted(np.cumsum(singular**2) / np.sum(singular**2), 0.95)) + 1
    assert k == 3 < COMPONENTS
    scale = singular[:k] / np.sqrt(len(logs) - 1)

    def summary(blocks):
        def of(table):
            codes = CODES if name != "gradient-dose" else ()
            return np.column_stack([table["log_p"].mean(1), *(np.log(table[code]).mean(1) for code in codes)])

        return (of(blocks) - of(fit).mean(0)) / of(fit).std(0, ddof=1)

    def points(blocks):
        return np.column_stack([((np.log(blocks["term_norm"]) - mean) / std) @ axes[:k].T / scale, summary(blocks)])

    want = -mixture_of(summary(fit)).score_samples(summary(new))
    if name != "complexity-dose":
        want -= mixture_of(points(fit)).score_samples(points(new))
    np.testing.assert_allclose(detector.score(table_of(group_size, **new)), want, rtol=1e-9)


def test_it_sees_a_combination_that_no_layer_shows_by_itself(rng):
    fit, test, novel = (correlated(rng, n) for n in (600, 300, 300))
    novel["log_p"] = -200 - novel["log_p"]
    novel["term_log_p"] = novel["log_p"][
        ..., None
    ]  # every layer and log p keep their distributions, their relation turns
    fit, inside, outside = ({**blocks, "grad_norm": blocks["term_norm"]} for blocks in (fit, test, novel))
    # code lengths of their own have no part in this
    for blocks in (fit, inside, outside):
        for code in CODES:
            blocks[code] = np.exp(rng.normal(4, 0.3, size=blocks["log_p"].shape))
    inside, outside = table_of(**inside), table_of(**outside)
    by_itself = {"layerwise-gaussian": 0.5, "typicality": 0.5}
    for name, want in by_itself.items():
        detector = make_detector(name).fit(table_of(**fit))
        assert auroc(detector.score(inside), detector.score(outside)) == pytest.approx(want, abs=0.08)
    detector = make_detector("fisher-dose").fit(table_of(**fit))
    assert auroc(detector.score(inside), detector.score(outside)) > 0.8


def test_a_constant_log_p_says_nothing(rng):
    fit = correlated(rng, 200)
    fit["term_log_p"] = np.full((200, 1, 1), -7.1)
    detector = make_detector("fisher-dose").fit(table_of(**fit))
    scores = detector.score(table_of(**fit))
    np.testing.assert_array_equal(np.isfinite(scores), np.ones(200, bool))
    assert (
        np.corrcoef(scores, np.square((np.log(fit["term_norm"]) - detector.term0_mean_) / detector.term0_std_).sum(1))[
            0, 1
        ]
        > 0.5
    )


@pytest.mark.parametrize("code", CODES)
def test_a_code_that_fit_samples_lack_is_left_out(rng, code):
    fit, new = correlated(rng, 200), correlated(rng, 20)
    coded = make_detector("fisher-dose").fit(table_of(**fit))
    none = {code: np.zeros((20, 1))}
    with pytest.raises(DataError, match=rf"fitted on samples that have a {code} .*, but .* has none"):
        coded.score(table_of(**{**new, **none}))
    scores = []
    for changed in (none, {code: np.ones((20, 1))}):
        uncoded = make_detector("fisher-dose").fit(table_of(**{**fit, code: np.zeros((200, 1))}))
        scores.append(uncoded.score(table_of(**{**new, **changed})))
    np.testing.assert_array_equal(*scores)
    assert (scores[0] != coded.score(table_of(**new))).all()


def test_samples_without_any_code_are_judged_by_their_gradients_and_log_p(rng):
    fit, new = correlated(rng, 200), correlated(rng, 20)
    for blocks in (fit, new):
        blocks |= {code: np.zeros_like(blocks[code]) for code in CODES}
    plain = make_detector("gradient-dose").fit(table_of(**fit))
    np.testing.assert_array_equal(
        make_detector("fisher-dose").fit(table_of(**fit)).score(table_of(**new)), plain.score(table_of(**new))
    )


def test_an_image_that_is_too_simple_for_its_likelihood_is_novel(rng):
    fit, new = correlated(rng, 400), correlated(rng, 200)
    odd = {**new, **{code: new[code] / 4 for code in CODES}}
    for name in ("fisher-dose", "complexity-dose"):
        detector = make_detector(name).fit(table_of(**fit))
        assert auroc(detector.score(table_of(**new)), detector.score(table_of(**odd))) > 0.9


@pytest.mark.parametrize("name", ["fisher-dose", "complexity-dose"])
def test_its_slope_is_the_derivative_of_its_score(rng, name):
    fit, new = correlated(rng, 200, 2), correlated(rng, 3, 2)
    detector = make_detector(name).fit(table_of(2, **fit))
    slope = score_cotangent(detector, table_of(2, **new))
    for block, place in (("term_norm", (1, 5)), ("term_log_p", (1, 1, 0)), ("log_p", (1, 1))):
        if block not in detector.requires:
            continue
        step = 1e-5 * abs(new[block][place])
        moved = []
        for sign in (1, -1):
            copy = {k: v.copy() for k, v in new.items()}
            copy[block][place] += sign * step
            moved.append(detector.score(table_of(2, **copy))[1])
        assert slope[block][place] == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5)


def test_components_and_normals_can_be_fewer(rng):
    fit = table_of(**correlated(rng, 400))
    few = FisherDose(most_components=2, most_modes=1).fit(fit)
    assert few.n_components() == (2,) and few.term0_axes_.shape == (14, 2)
    assert len(few.term0_weights_) == len(few.term0_summary_weights_) == 1
    same = FisherDose(most_components=COMPONENTS, most_modes=4).fit(fit)
    np.testing.assert_array_equal(same.score(fit), make_detector("fisher-dose").fit(fit).score(fit))
    for none in ({"most_components": 0}, {"most_modes": 0}):
        with pytest.raises(SettingError, match="at least one of each"):
            FisherDose(**none)


def two_terms(rng, n):
    """Return the blocks of two terms side by side, and those of each."""
    parts = [correlated(rng, n, seed=seed) for seed in (5, 6)]
    codes = {code: parts[0][code] for code in CODES}
    both = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in ("term_norm", "term_log_p")}
    return {**both, **codes, "log_p": sum(part["log_p"] for part in parts)}, [{**part, **codes} for part in parts]


def test_terms_of_log_p_are_judged_one_by_one(rng):
    (fit, fits), (new, news) = two_terms(rng, 200), two_terms(rng, 30)
    detector = make_detector("fisher-dose").fit(table_of(**fit))
    alone = [
        make_detector("fisher-dose").fit(table_of(**f)).score(table_of(**n)) for f, n in zip(fits, news, strict=True)
    ]
    np.testing.assert_allclose(detector.score(table_of(**new)), sum(alone), rtol=1e-9)
    assert len(detector.n_components()) == 2
    slope = score_cotangent(detector, table_of(**new))
    for block, place in (("term_norm", (1, 20)), ("term_log_p", (1, 0, 1))):
        step = 1e-5 * abs(new[block][place])
        moved = []
        for sign in (1, -1):
            copy = {k: np.array(v) for k, v in new.items()}
            copy[block][place] += sign * step
            moved.append(detector.score(table_of(**copy))[1])
        assert slope[block][place] == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5)
