"""Laws that every built-in detector keeps, over one synthetic world: those of everyone's, and the library's own."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import stats

from fisherscope.core.errors import CardMismatchError, DataError, NotFittedError, SettingError
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.core.table import FeatureTable
from fisherscope.detectors import (
    detector_names,
    is_differentiable,
    is_updatable,
    make_detector,
    score_cotangent,
    updatable_names,
)
from fisherscope.testing import DETECTOR_LAWS, synthetic_table
from fisherscope.testing.detector_laws import constant
from fisherscope.testing.tables import CODECS, LAYERS, scaled

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

GRADIENT_BLOCKS = ("grad_norm", "sketch_norm", "term_norm", "sketch", "layer_sketch", "metric")
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
ADAPTIVE = [n for n in NAMES if n.partition("@")[0] not in UNSCALED and not n.startswith("input-complexity")]


world = partial(synthetic_table, metrics=("diagonal", "diagonal-uncentred", "kfac", "ekfac", "whitened"))


def fitted(name, group_size=1):
    return make_detector(name).fit(world(150, group_size))


@pytest.mark.parametrize("law", DETECTOR_LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_law(name, law):
    DETECTOR_LAWS[law](partial(make_detector, name), world)


@pytest.mark.parametrize("name", NAMES)
def test_constant_samples_give_scores_or_an_error_as_the_detector_adapts_or_not(name):
    same = constant(world(1), 40)
    if name in ADAPTIVE:
        with pytest.raises(DataError, match=r"give different samples|needs samples that differ"):
            make_detector(name).fit(same)
    else:
        make_detector(name).fit(same)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in GRADIENT_FREE])
def test_scaling_the_units_of_all_gradients_does_not_change_the_order(name):
    """All tables in other units: a detector that adapts to its fit set ranks alike."""
    table = world(40, 1, 1)
    scores = fitted(name).score(table)

    again = make_detector(name).fit(scaled(world(150), 1e3)).score(scaled(table, 1e3))
    assert stats.spearmanr(scores, again).statistic > 0.999


GRADIENT_NAMES = [n for n in NAMES if n not in GRADIENT_FREE]


def with_layers(table, places):
    """The table of a model of other layers; sketches of another size."""
    columns = {k: v if k == "codec_bytes" else tuple(v[i] for i in places) for k, v in table.columns.items()}
    blocks = {k: v[..., places] if k.partition(":")[0] in GRADIENT_BLOCKS else v for k, v in table.blocks.items()}
    return replace(table, blocks=blocks, columns=columns)


def gradient_block(name):
    (block,) = [b for b in make_detector(name).requires if b.partition(":")[0] in GRADIENT_BLOCKS]
    return block


@pytest.mark.parametrize("places", [range(LAYERS - 2), [*range(LAYERS), 0, 1]], ids=["fewer", "more"])
@pytest.mark.parametrize("name", GRADIENT_NAMES)
def test_a_table_of_other_layers_is_refused(name, places, tmp_path):
    detector, other = fitted(name), with_layers(world(5), list(places))
    message = rf"'size of {gradient_block(name)}'.*expected '.*', found '.*'; {re.escape(name)} was fitted on"
    write_arrays(tmp_path / "d.safetensors", detector.state(), {})
    restored = make_detector(name).restore(read_arrays(tmp_path / "d.safetensors")[0])
    for one in (detector, restored):
        with pytest.raises(CardMismatchError, match=message):
            one.score(other)
    if is_differentiable(detector):
        with pytest.raises(CardMismatchError, match=message):
            score_cotangent(detector, other)


@pytest.mark.parametrize("name", [n for n in GRADIENT_NAMES if gradient_block(n) in world(1).columns])
def test_a_table_of_layers_by_other_names_is_refused(name):
    detector, table, block = fitted(name), world(5), gradient_block(name)
    names = table.columns[block]
    other = replace(table, columns={**table.columns, block: (*names[:4], "other", *names[5:])})
    expected = re.escape(names[4])
    with pytest.raises(
        CardMismatchError, match=f"'column 4 of {block}'.*expected '{expected}', found 'other'; {re.escape(name)} was"
    ):
        detector.score(other)
    nameless = replace(table, columns={"codec_bytes": CODECS})
    np.testing.assert_array_equal(detector.score(nameless), detector.score(table))


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
        stays = key in ("damping_", "scale_", "kept_", "floor_")
        if not (key == "expectation_" or (name == "rao-sketch-equalised" and key in ("mean_", "covariance_"))):
            np.testing.assert_allclose(value, (before if stays else whole)[key], rtol=1e-9, err_msg=key)
    for block, values in second.blocks.items():
        np.testing.assert_array_equal(values, untouched.blocks[block])
    assert np.isfinite(grown.score(world(20, group_size, 1))).all()


def test_which_detectors_can_be_updated():
    rao = ("rao-sketch", "rao-sketch-uncentred", "rao-sketch-equalised", "rao-layers", "rao-layers-normalised")
    assert set(updatable_names()) == {"layerwise-gaussian", "total-norm", *rao}


DIFFERENTIABLE = tuple(name for name in NAMES if is_differentiable(make_detector(name)))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_block_but_the_code_lengths_has_a_slope(name):
    slopes = score_cotangent(fitted(name), world(5))
    assert set(slopes) == set(make_detector(name).requires) - {"code_length", "predictive_length"}  # of whole numbers


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
