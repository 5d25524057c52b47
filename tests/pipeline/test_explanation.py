"""Explanations of a guard's verdicts: maps, layers, smoothing, groups, tokens and columns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import fisherscope
from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.detectors import score_cotangent
from fisherscope.features.perturbation import perturbed
from fisherscope.models.language import ByteTransformer
from fisherscope.pipeline.batches import Batches, as_batches
from fisherscope.pipeline.extraction import extract_table
from fisherscope.pipeline.saliency import ExplainSettings

SLOPE = ExplainSettings(method="gradient")
POSITIONS = ExplainSettings(method="positions", blur=0.0)
SIGNED = ExplainSettings(aggregate="sum", method="gradient")


@pytest.fixture(scope="module")
def guards(make_glow, digits):
    """Guards over a tiny Glow in float64, by detector and group size."""
    glow, made = make_glow(torch.float64), {}

    def make(detector, group_size=1):
        key = detector, group_size
        if key not in made:
            samples = digits.select(range(160))
            made[key] = fisherscope.fit(glow, samples, detector=detector, fpr=0.1, group_size=group_size)
        return made[key]

    return make


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("detector", ["layerwise-gaussian", "rao-sketch", "typicality", "total-norm@diagonal"])
def test_a_map_is_the_slope_of_the_guards_score(guards, digits, detector, group_size):
    guard = guards(detector, group_size)
    batches = as_batches(digits.select(range(300, 304)), guard.target)
    found = guard.explain(batches, SIGNED)
    assert found.kind == "pixels" and found.maps.shape == (4 // group_size, group_size, 8, 8)
    direction = np.random.default_rng(0).normal(size=batches.x.shape)

    def scores(step):
        moved = Batches(batches.x + step * direction, batches.ids, batches.keys, batches.name)
        return guard.score(moved)

    expected = (scores(1e-5) - scores(-1e-5)) / 2e-5
    slope = (found.maps * direction.reshape(found.maps.shape)).sum((1, 2, 3))
    # a step that crosses a kink of a ReLU is off by that kink
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(("settings", "times"), [(SLOPE, 1), (POSITIONS, 1), (replace(SLOPE, smooth=2), 3)])
def test_features_are_extracted_once_and_again_only_of_perturbed_copies(guards, digits, monkeypatch, settings, times):
    guard, extracted = guards("rao-sketch"), []
    monkeypatch.setattr(
        "fisherscope.pipeline.guard.extract_table",
        lambda target, batches, *rest, **options: (
            extracted.append(len(batches)) or extract_table(target, batches, *rest, **options)
        ),
    )
    guard.explain(digits.select(range(300, 304)), settings)
    assert extracted == [4] * times
    extracted.clear()
    ranking = fisherscope.rank_groups(guard, digits.select(range(300, 310)), top=4, settings=settings)
    assert ranking.explanation is not None and extracted == [10] + [4] * (times - 1)


def test_the_default_can_be_smoothed_on_images_of_whole_numbers(guards, digits):
    guard = guards("fisher-dose")
    some = digits.select(range(300, 302))
    smooth = guard.explain(some, ExplainSettings(smooth=2, noise=1e-9))
    assert some.x.dtype == np.uint8
    np.testing.assert_allclose(smooth.maps, guard.explain(some).maps, rtol=1e-3, atol=1e-3 * np.abs(smooth.maps).max())


def test_the_verdict_is_that_of_judge(guards, digits):
    guard, some = guards("rao-sketch"), digits.select(range(300, 304))
    found, verdict = guard.explain(some, SLOPE), guard.judge(some)
    np.testing.assert_array_equal(found.score, verdict.score)
    np.testing.assert_array_equal(found.p_value, verdict.p_value)
    np.testing.assert_array_equal(found.novel, verdict.novel)
    assert found.ids == verdict.ids
    assert found.method == "gradient" and (found.maps >= 0).all() and found.maps.any((1, 2, 3)).all()


def test_explanations_do_not_depend_on_the_batch(guards, digits):
    guard, settings = guards("layerwise-gaussian"), ExplainSettings(smooth=2)
    some = digits.select(range(300, 304))
    whole = guard.explain(some, settings).maps
    np.testing.assert_allclose(guard.explain(some.select([2]), settings).maps, whole[[2]], rtol=1e-6)
    np.testing.assert_allclose(guard.explain(some.select([3, 1]), settings).maps, whole[[3, 1]], rtol=1e-6)
    assert not np.allclose(whole, guard.explain(some, SLOPE).maps, rtol=1e-2)


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("detector", ["layerwise-gaussian", "rao-sketch"])
def test_a_map_of_positions_adds_up(guards, digits, detector, group_size):
    guard, some = guards(detector, group_size), digits.select(range(300, 304))
    found = guard.explain(some, POSITIONS)
    assert found.kind == "pixels" and found.method == "positions" and found.maps.shape[1:] == (group_size, 8, 8)
    table = guard.extract(some)
    (block,) = guard.detector.requires
    cotangent = score_cotangent(guard.detector, table)[block]
    degree = 1 if block == "sketch" else 2  # the sketch is linear in the gradient, the norms are quadratic
    inner = degree * (cotangent * table.block(block)).reshape(len(cotangent), -1).sum(1)
    np.testing.assert_allclose(found.maps.sum((1, 2, 3)), inner, rtol=1e-8)
    np.testing.assert_allclose(guard.explain(some, replace(POSITIONS, blur=None)).maps.sum((1, 2, 3)), inner, rtol=1e-8)
    alone = guard.explain(some.select(range(group_size)), POSITIONS).maps
    np.testing.assert_allclose(alone, found.maps[:1], rtol=1e-8, atol=1e-10 * np.abs(found.maps).max())


def test_the_map_of_images_is_what_smoothing_a_pixel_would_change(guards, digits):
    guard, some = guards("rao-sketch"), digits.select(range(300, 303))
    found = guard.explain(some, ExplainSettings(blur=0.0))
    x = some.x.astype(np.float64)
    detail = x - gaussian_filter(x, (0, 0, 0.75, 0.75))
    gradient = guard.explain(some, SIGNED).maps[:, 0]  # of one channel
    assert found.kind == "pixels" and found.method == "contrast"
    np.testing.assert_allclose(found.maps[:, 0], np.abs(gradient * detail[:, 0]), rtol=1e-10)
    shown = guard.explain(some).maps[:, 0]
    np.testing.assert_allclose(shown, gaussian_filter(found.maps[:, 0], (0, 0.5, 0.5)), rtol=1e-10)


def test_smoothing_averages_over_keyed_copies(guards, digits):
    guard, batches = guards("layerwise-gaussian"), as_batches(digits.select([300]))
    copies = [perturbed(batches.x, batches.keys, 4.0, draw, guard.card.seed, (0, 255)) for draw in range(3)]
    parts = [guard.explain(Batches(c, batches.ids, batches.keys, "copy"), SIGNED).maps for c in copies]
    found = guard.explain(batches, ExplainSettings(3, 4.0, "sum", "gradient")).maps
    np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-9, atol=1e-12 * np.abs(found).max())


def test_perturbations_have_their_deviation_and_range():
    x, keys = np.full((50, 400), 100, dtype=np.uint8), np.arange(50, dtype=np.uint64)
    first, other = (perturbed(x, keys, 5.0, draw, 0, (0, 255)) for draw in (0, 1))
    assert abs(np.std(first - x) - 5) < 0.15 and abs(np.mean(first - x)) < 0.15
    assert abs(np.corrcoef((first - x).ravel(), (other - x).ravel())[0, 1]) < 0.03
    np.testing.assert_array_equal(perturbed(x[7:9], keys[7:9], 5.0, 0, 0, (0, 255)), first[7:9])
    assert perturbed(x, keys, 500.0, 0, 0, (0, 255)).min() == 0


def test_layers_are_compared_with_what_the_detector_learnt(guards, digits):
    guard, some = guards("layerwise-gaussian"), digits.select(range(300, 340))
    layers = guard.explain(some.select([0, 1])).layers
    table = extract_table(guard.target, as_batches(some.select([0, 1])), ["grad_norm"])
    logs = np.log(table.block("grad_norm"))[:, guard.detector.kept_]
    assert layers.kind == "z" and layers.layers == tuple(table.columns["grad_norm"][i] for i in guard.detector.kept_)
    np.testing.assert_allclose(layers.values, (logs - guard.detector.mean_) / guard.detector.std_, rtol=1e-6)
    name, value = layers.largest(0, 3)[0]
    assert layers.layers.index(name) == np.abs(layers.values[0]).argmax()
    assert value == layers.values[0][layers.layers.index(name)]


def test_layers_of_other_detectors_are_contributions_or_compared_with_a_reference(guards, digits):
    guard, one = guards("rao-sketch"), digits.select([300])
    own = guard.explain(one).layers
    assert own.kind == "contribution" and own.values.shape == (1, len(list(guard.target.module.parameters())))
    reference = digits.select(range(160))
    found = guard.explain(one, reference=reference).layers
    table = extract_table(guard.target, as_batches(reference), ["grad_norm"], guard.settings)
    again = guard.explain(one, reference=table).layers
    np.testing.assert_array_equal(found.values, again.values)
    logs = np.log(table.block("grad_norm"))
    mine = np.log(extract_table(guard.target, as_batches(one), ["grad_norm"]).block("grad_norm"))
    np.testing.assert_allclose(found.values, (mine - logs.mean(0)) / logs.std(0, ddof=1), rtol=1e-5)
    assert guards("likelihood").explain(one).layers is None
    with pytest.raises(CardMismatchError, match="group_size"):
        guards("rao-sketch", 2).explain(digits.select([300, 301]), reference=table)


def test_a_planted_blot_is_where_the_map_points(guards, digits):
    """pixel-mahalanobis knows no model: its map must find a blot that breaks the pixels' correlations."""
    guard = guards("pixel-mahalanobis")
    x = digits.x[300:310].copy()
    x[:, :, 2:4, 5:7] = 255 - x[:, :, 2:4, 5:7]
    maps = guard.explain(x).maps[:, 0]
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 5:7] = True
    assert maps[:, mask].mean() > 2 * maps[:, ~mask].mean()


def test_columns_of_a_table_row():
    class Gaussian(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(4, dtype=torch.float64))
            self.log_std = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def log_prob(module, x):
        return torch.distributions.Normal(module.mean, module.log_std.exp()).log_prob(x).sum(1)

    rows = np.random.default_rng(0).normal(size=(200, 4))
    guard = fisherscope.fit(Gaussian(), rows, log_prob=log_prob, detector="total-norm", fpr=0.1)
    strange = rows[:1].copy()
    strange[0, 2] = 9
    found = guard.explain(strange)
    with pytest.raises(SettingError, match="is a map of images"):
        guard.explain(strange, POSITIONS)
    assert found.kind == "columns" and found.maps.shape == (1, 1, 4) and found.maps[0, 0].argmax() == 2
    # f = x^2 + (x^2 - 1)^2 in each column, so its slope is 2x + 4x (x^2 - 1)
    np.testing.assert_allclose(found.maps[0, 0], 2 * strange[0] + 4 * strange[0] * (strange[0] ** 2 - 1))
    assert (found.maps < 0).any()
    with pytest.raises(SettingError, match="give noise in the units of x"):
        guard.explain(strange, ExplainSettings(smooth=2))
    smooth = guard.explain(strange, ExplainSettings(smooth=2, noise=0.1))
    assert smooth.maps[0, 0].argmax() == 2


def test_tokens_of_a_text():
    model = ByteTransformer((8,), width=8, layers=1, heads=2).double()
    x = np.random.default_rng(0).integers(0, 256, (80, 8)).astype(np.uint8)
    guard = fisherscope.fit(model, x, detector="rao-sketch", fpr=0.1)
    found, signed = guard.explain(x[:2]), guard.explain(x[:2], SIGNED)
    assert found.kind == signed.kind == "tokens" and found.maps.shape == (2, 1, 8)
    assert (found.maps[..., :7] > 0).all() and (signed.maps[..., :7] < 0).any()
    with pytest.raises(SettingError, match="cannot be perturbed"):
        guard.explain(x[:2], ExplainSettings(smooth=2))


def test_perturbed_copies_of_integers_are_no_samples_of_another_kind():
    """A module that does not say what it takes: its guard tells 8-bit images from floating ones."""
    torch.manual_seed(0)
    x = np.random.default_rng(0).integers(0, 256, (80, 1, 8, 8)).astype(np.uint8)

    def log_prob(module, x):
        return -module(x / 255).square().sum((1, 2, 3))

    guard = fisherscope.fit(nn.Conv2d(1, 2, 3, padding=1), x, log_prob=log_prob, detector="total-norm", fpr=0.1)
    found = guard.explain(x[:2], ExplainSettings(smooth=2, noise=5.0))
    assert found.maps.shape == (2, 1, 8, 8) and found.maps.any((1, 2, 3)).all()
    with pytest.raises(DataError, match="the guard was fitted on samples that are 8-bit"):
        guard.explain(x[:2] / 2.0, ExplainSettings(smooth=2, noise=5.0))


@pytest.mark.parametrize(
    "wrong", [{"smooth": 1.5}, {"smooth": "3"}, {"noise": "a"}, {"noise": [1.0]}, {"blur": "1"}, {"blur": np.nan}]
)
def test_settings_of_another_type_are_refused_at_once(wrong):
    (name,) = wrong
    with pytest.raises(SettingError, match=rf"{name} is .*, expected"):
        ExplainSettings(**wrong)
    ExplainSettings(smooth=np.int64(2), noise=np.float32(0.5), blur=1)


def test_too_few_samples_for_a_group_are_counted(guards, digits):
    with pytest.raises(DataError, match="has only 1 samples"):
        guards("likelihood", 2).explain(digits.select([300]))


def test_refusals(guards, digits):
    some = digits.select(range(300, 302))
    forest = guards("layerwise-forest")
    with pytest.raises(SettingError, match=r"layerwise-forest has no gradient.*fit one of these instead"):
        forest.explain(some)
    guard = guards("likelihood")
    with pytest.raises(ModelError, match=r"reads no parameter gradient.*method 'contrast'"):
        guard.explain(some, POSITIONS)
    with pytest.raises(DataError, match="holds no samples"):
        guard.explain(guard.extract(some))
    for wrong in ({"smooth": -1}, {"noise": 0.0}, {"aggregate": "max"}, {"method": "x"}, {"blur": -1}):
        with pytest.raises(SettingError, match="expected"):
            ExplainSettings(**wrong)
    with pytest.raises(SettingError, match="only gradients are averaged"):
        ExplainSettings(smooth=2, method="positions")
