"""Laws that every built-in detector keeps, over one synthetic world of gradients, likelihoods and pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fisherscope.core.errors import DataError, NotFittedError, SettingError
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.core.table import Card, FeatureTable
from fisherscope.detectors import (
    ConformalCalibration,
    detector_names,
    is_differentiable,
    is_updatable,
    make_detector,
    score_cotangent,
    updatable_names,
)

LAYERS, SIZE = 6, 16
METRIC_NAMES = (
    "layerwise-gaussian@diagonal",
    "layerwise-upper@kfac",
    "total-norm@ekfac",
    "rao-sketch@whitened",
    "fisher-dose@whitened",
    "typicality-fisher@diagonal",
)
COMBINED_NAMES = (
    "combined:layerwise-gaussian+likelihood",
    "combined:rao-sketch@whitened+pixel-mahalanobis+complexity-dose",
    "combined-cauchy:layerwise-upper@kfac+typicality",
)
NAMES = (*detector_names(), *METRIC_NAMES, *COMBINED_NAMES)

GRADIENT_BLOCKS = ("grad_norm", "sketch_norm", "sketch", "layer_sketch", "metric")
GRADIENT_FREE = [
    n for n in NAMES if not {b.partition(":")[0] for b in make_detector(n).requires} & set(GRADIENT_BLOCKS)
]
UNSCALED = (
    "likelihood",
    "typicality",
    "total-norm",
    "typicality-fisher",
    "likelihood-regret",
    "likelihood-ratio",
    "waic",
)
CODECS = ("png", "webp", "jpeg2000", "zlib")
ADAPTIVE = [n for n in NAMES if n.partition("@")[0] not in UNSCALED and not n.startswith("input-complexity")]


def world(n, group_size=1, seed=0, loudness=1.0):
    """A table of n groups. ``loudness`` scales the gradients, lowers log p and spreads the pixels."""
    rng = np.random.default_rng(seed)
    mood = rng.normal(size=(n, group_size, 1, 1))
    layers = rng.normal(size=(n, group_size, SIZE, LAYERS)) * np.exp(0.3 * mood) + 0.5
    layers *= loudness * np.logspace(-2, 2, LAYERS)
    norms = np.square(layers.sum(1)).sum(1)
    spread = 20.0 * loudness
    return FeatureTable(
        blocks={
            "grad_norm": norms,
            "metric:diagonal": np.repeat(norms[:, None] / group_size, group_size, axis=1),
            "metric:diagonal-uncentred": np.repeat(norms[:, None] / group_size, group_size, axis=1),
            "metric:kfac": np.repeat(norms[:, None] / group_size, group_size, axis=1),
            "metric:ekfac": np.repeat(norms[:, None] / group_size, group_size, axis=1),
            "sketch": layers.sum(3),
            "sketch:whitened": layers.sum(3),
            "sketch_norm:whitened": norms,
            "layer_sketch": layers,
            "log_p": rng.normal(-100 * loudness, 5, (n, group_size)),
            "code_length": rng.uniform(50, 60, (n, group_size)),
            "codec_bytes": rng.integers(2, 6, (n, group_size, len(CODECS))),
            "statistics": loudness * rng.normal(-50, 5, (n, group_size, 3)),
            "score_norms": loudness * (10 + rng.normal(size=(n, group_size, 10))),
            "path_statistics": loudness * rng.normal(size=(n, group_size, 6)) ** 3,
            "score_curvature": loudness * rng.normal(1.0, 0.2, (n, group_size, 2)),
            "regret": loudness * rng.gamma(4.0, 1.0, (n, group_size)),
            "ensemble_log_p": rng.normal(-100 * loudness, 2, (n, group_size, 3)),
            "background_log_p": rng.normal(-90 * loudness, 1, (n, group_size)),
            "jacobian_spectrum": -np.sort(rng.normal(loudness, 1, (n, group_size, 9))),
            "restoration": loudness * rng.gamma(9.0, 1.0, (n, group_size, 8)),
            "pixels": np.clip(rng.normal(128, spread, (n, group_size, 1, 3, 3)), 0, 255).astype(np.uint8),
        },
        columns={k: tuple(f"l{i}" for i in range(LAYERS)) for k in ("grad_norm", "layer_sketch", "metric:diagonal")}
        | {"codec_bytes": CODECS},
        ids=tuple(tuple(f"{i}.{j}" for j in range(group_size)) for i in range(n)),
        keys=rng.integers(0, 2**63, (n, group_size)).astype(np.uint64),
        card=Card(
            "m", "m", "d", "d", group_size, 0, "float64", {"features": {"grad_norm": {"sizes": [SIZE] * LAYERS}}}
        ),
    )


def fitted(name, group_size=1):
    return make_detector(name).fit(world(150, group_size))


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_larger_gradients_are_more_novel(name, group_size):
    detector = fitted(name, group_size)
    usual, loud = detector.score(world(200, group_size, 1)), detector.score(world(200, group_size, 1, loudness=8.0))
    assert np.median(loud) > np.quantile(usual, 0.95)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_its_group_alone(name):
    detector, table = fitted(name, 2), world(20, 2, 1)
    scores = detector.score(table)
    assert scores.shape == (20,) and scores.dtype == np.float64
    np.testing.assert_array_equal(detector.score(table), scores)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(detector.score(table.select(order)), scores[order], rtol=1e-10)
    np.testing.assert_allclose(detector.score(table.select([7])), scores[[7]], rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_neither_fit_nor_score_changes_the_table(name):
    table, untouched = world(60), world(60)
    make_detector(name).fit(table).score(table)
    for block, values in table.blocks.items():
        np.testing.assert_array_equal(values, untouched.blocks[block])


@pytest.mark.parametrize("name", NAMES)
def test_state_is_plain_arrays_and_comes_back_to_the_bit(name, tmp_path):
    detector, table = fitted(name), world(30, 1, 1)
    for key, value in detector.state().items():
        assert key.endswith("_") and value.dtype.kind in "fiub", key
    write_arrays(tmp_path / "d.safetensors", detector.state(), {})
    restored = make_detector(name).restore(read_arrays(tmp_path / "d.safetensors")[0])
    np.testing.assert_array_equal(restored.score(table), detector.score(table))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_fit_gives_the_same_scores(name):
    table = world(30, 1, 1)
    np.testing.assert_array_equal(fitted(name).score(table), fitted(name).score(table))


@pytest.mark.parametrize("name", NAMES)
def test_p_values_are_calibrated(name):
    detector = fitted(name)
    scores = [detector.score(world(199, 1, seed)) for seed in range(1, 17)]
    pairs = list(zip(scores[::2], scores[1::2], strict=True))
    assert min(stats.ks_2samp(calibration, test).pvalue for calibration, test in pairs) > 1e-4
    for level in (0.01, 0.05, 0.1):
        alarms = [(ConformalCalibration.from_scores(c).p_value(t) <= level + 1e-12).sum() for c, t in pairs]
        # level = k / (n + 1): the count is beta-binomial (METHOD.md), the pairs independent
        flagged = round(level * 200)
        expected = stats.betabinom(199, flagged, 200 - flagged)
        assert abs(np.mean(alarms) - expected.mean()) < 4 * expected.std() / np.sqrt(len(pairs))


def constant(n):
    first = world(1)
    return FeatureTable(
        blocks={k: np.repeat(v, n, axis=0) for k, v in first.blocks.items()},
        columns=first.columns,
        ids=first.ids * n,
        keys=np.repeat(first.keys, n, axis=0),
        card=first.card,
    )


@pytest.mark.parametrize("name", NAMES)
def test_constant_samples_give_finite_scores_or_one_clear_error(name):
    if name in ADAPTIVE:
        with pytest.raises(DataError, match=r"give different samples|needs samples that differ"):
            make_detector(name).fit(constant(40))
    else:
        assert np.isfinite(make_detector(name).fit(constant(40)).score(constant(5))).all()
    scores = fitted(name).score(constant(5))
    assert np.isfinite(scores).all() and np.ptp(scores) <= 1e-9 * np.abs(scores).max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loudness", [1e-8, 1e6])
def test_scores_of_whispers_and_shouts_are_finite(name, loudness):
    assert np.isfinite(fitted(name).score(world(10, 1, 1, loudness))).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in GRADIENT_FREE])
def test_scaling_the_units_of_all_gradients_does_not_change_the_order(name):
    """All tables in other units: a detector that adapts to its fit set ranks alike."""
    table = world(40, 1, 1)
    scores = fitted(name).score(table)

    def in_other_units(t):
        power = {"grad_norm": 2, "sketch": 1, "sketch:whitened": 1, "layer_sketch": 1}
        power |= {k: 2 for k in t.blocks if k.startswith("metric:")}
        blocks = {k: v * 1e3 ** power[k] if k in power else v for k, v in t.blocks.items()}
        return FeatureTable(blocks, t.columns, t.ids, t.keys, t.card)

    scaled = make_detector(name).fit(in_other_units(world(150))).score(in_other_units(table))
    assert stats.spearmanr(scores, scaled).statistic > 0.999


@pytest.mark.parametrize("name", NAMES)
def test_refusals(name):
    with pytest.raises(NotFittedError, match="before it was fitted"):
        make_detector(name).score(world(5))
    detector = make_detector(name)
    if detector.min_fit > 1:
        with pytest.raises(DataError, match=f"it needs at least {detector.min_fit}"):
            detector.fit(world(detector.min_fit - 1))
    full = world(60)
    empty = FeatureTable({}, {}, full.ids, full.keys, full.card)
    with pytest.raises(DataError, match="the table has no block"):
        fitted(name).score(empty)


@pytest.mark.parametrize("name", NAMES)
def test_the_fewest_fit_groups_suffice(name):
    detector = make_detector(name)
    n = max(detector.min_fit, 2)
    assert np.isfinite(detector.fit(world(n)).score(world(20, 1, 1))).all()


UPDATABLE = tuple(name for name in NAMES if is_updatable(make_detector(name)))


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("name", UPDATABLE)
def test_an_update_is_a_fit_of_all_but_for_what_stays(name, group_size):
    first, second, untouched = (world(n, group_size, seed) for n, seed in ((80, 0), (70, 5), (70, 5)))
    grown = make_detector(name).fit(first)
    before = grown.state()
    assert grown.partial_fit(second) is grown
    after, whole = grown.state(), make_detector(name).fit(FeatureTable.concatenate([first, second])).state()
    for key, value in after.items():
        stays = key in ("damping_", "scale_", "kept_", "floor_", "n_layers_")
        if not (key == "expectation_" or (name == "rao-sketch-equalised" and key in ("mean_", "covariance_"))):
            np.testing.assert_allclose(value, (before if stays else whole)[key], rtol=1e-9, err_msg=key)
    for block, values in second.blocks.items():
        np.testing.assert_array_equal(values, untouched.blocks[block])
    assert np.isfinite(grown.score(world(20, group_size, 1))).all()


def test_which_detectors_can_be_updated():
    rao = ("rao-sketch", "rao-sketch-uncentred", "rao-sketch-equalised", "rao-layers", "rao-layers-normalised")
    assert set(updatable_names()) == {"layerwise-gaussian", "total-norm", *rao}


DIFFERENTIABLE = tuple(name for name in NAMES if is_differentiable(make_detector(name)))


def real_valued(table):
    """The same table with pixels that can be moved a little."""
    return replace(table, blocks={**table.blocks, "pixels": table.blocks["pixels"].astype(np.float64)})


def moved(table, block, direction, step):
    blocks = {**table.blocks, block: table.blocks[block] + step * direction}
    return replace(table, blocks=blocks)


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_cotangent_is_the_slope_of_the_score(name, group_size):
    detector, table = fitted(name, group_size), real_valued(world(12, group_size, 1))
    cotangent = score_cotangent(detector, table)
    assert set(cotangent) == set(detector.requires) - {"code_length"}  # a whole number of phrases has no slope
    rng = np.random.default_rng(3)
    for block, slope in cotangent.items():
        values = table.blocks[block]
        assert slope.shape == values.shape and slope.dtype == np.float64
        # entries differ by orders of magnitude between layers: move each by a share of its usual size
        direction = rng.normal(size=values.shape) * np.abs(values).mean((0, 1) if values.ndim > 2 else 0)
        steps = [detector.score(moved(table, block, direction, step)) for step in (1e-6, -1e-6)]
        expected = (steps[0] - steps[1]) / 2e-6
        found = (slope * direction).reshape(len(table), -1).sum(1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_cotangent_depends_on_its_group_alone(name):
    detector, table = fitted(name, 2), world(12, 2, 1)
    order = np.random.default_rng(0).permutation(12)
    for block, slope in score_cotangent(detector, table).items():
        again = score_cotangent(detector, table.select(order))[block]
        np.testing.assert_allclose(again, slope[order], rtol=1e-9, atol=1e-12 * np.abs(slope).max())


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("loudness", [1e-8, 1e6])
def test_cotangents_of_whispers_and_shouts_are_finite(name, loudness):
    slopes = score_cotangent(fitted(name), world(10, 1, 1, loudness))
    assert all(np.isfinite(slope).all() for slope in slopes.values())


def test_which_detectors_have_a_gradient():
    without = {"layerwise-forest", "dose-kde", "dose-svm", "waic", "msma", "diffpath-6d", "ddpm-ood-mse-ssim", "scoped"}
    without |= {f"input-complexity-{codec}" for codec in ("png", "webp", "jpeg2000", "zlib")}
    without |= {"likelihood-ratio", "likelihood-regret", "local-intrinsic-dimension"}
    without |= {"typicality-fisher", "typicality-fisher@diagonal", *COMBINED_NAMES}
    assert set(NAMES) - set(DIFFERENTIABLE) == without
    with pytest.raises(SettingError, match=r"layerwise-forest has no gradient.*one of these instead: .*total-norm"):
        score_cotangent(fitted("layerwise-forest"), world(5))
    with pytest.raises(NotFittedError, match="before it was fitted"):
        score_cotangent(make_detector("total-norm"), world(5))
