"""Laws of detectors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fisherscope.core.errors import DataError, FisherscopeError, NotFittedError
from fisherscope.core.store import read_arrays, write_arrays
from fisherscope.core.table import FeatureTable, is_group_block
from fisherscope.detectors import (
    ConformalCalibration,
    Detector,
    is_differentiable,
    is_updatable,
    make_detector,
    score_cotangent,
)
from fisherscope.detectors.conformal import alarms
from fisherscope.testing.tables import MakeTable, synthetic_table

MakeDetector = Callable[[], Detector]
DetectorLaw = Callable[[MakeDetector, MakeTable], None]

_FIT: Final = 150
_ABSURD: Final = 1e8


def check_detector(detector: str | MakeDetector, table: MakeTable | None = None) -> None:
    """Run every law of detectors.

    Args:
        detector: its class, a name that :func:`fisherscope.make_detector` takes, or a function that returns an
            unfitted one.
        table: makes tables with the blocks that it requires; by default a synthetic world with every block that the
            library extracts, and those of any Fisher metric.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    make = partial(make_detector, detector) if isinstance(detector, str) else detector
    if table is None:
        named = {block.partition(":")[2] for block in make().requires if ":" in block}
        table = partial(synthetic_table, metrics=sorted(named))
    keep_laws({name: partial(law, make, table) for name, law in DETECTOR_LAWS.items()})


def keep_laws(laws: Mapping[str, Callable[[], None]]) -> None:
    """Run laws; one that is broken, or ends in any other error, is an AssertionError that names it."""
    for name, law in laws.items():
        try:
            law()
        except (AssertionError, FisherscopeError) as error:
            raise AssertionError(f"the law '{name}' is broken: {str(error).strip()}") from error
        except Exception as error:
            raise AssertionError(f"the law '{name}' is broken: {type(error).__name__}: {error}") from error


def require(kept: object, message: str) -> None:
    """Raise an AssertionError with a message unless a law is kept."""
    if not kept:
        raise AssertionError(message)


def require_refusal(call: Callable[[], object], kind: type[FisherscopeError], words: str, when: str) -> None:
    """Raise an AssertionError unless a call raises an error of one kind whose message has some words."""
    try:
        call()
    except kind as error:
        require(words in str(error), f"the error {when} is '{error}', expected it to say '{words}'")
        return
    except Exception as error:
        raise AssertionError(f"{error!r} was raised {when}, expected a {kind.__name__} that says '{words}'") from error
    raise AssertionError(f"nothing was raised {when}, expected a {kind.__name__} that says '{words}'")


def _fitted(make: MakeDetector, table: MakeTable, group_size: int = 1) -> Detector:
    return make().fit(table(_FIT, group_size))


def louder_is_more_novel(make: MakeDetector, table: MakeTable) -> None:
    """Higher = more novel: the median score of loud groups exceeds the usual 95 % quantile."""
    for size in (1, 3):
        detector = _fitted(make, table, size)
        usual, loud = detector.score(table(200, size, 1)), detector.score(table(200, size, 1, loudness=8.0))
        median, quantile = np.median(loud), np.quantile(usual, 0.95)
        require(
            median > quantile,
            f"{detector.name}: 8 times as loud groups of {size} have the median score {median:.6g}, expected above the "
            f"95 % quantile {quantile:.6g} of usual ones; higher must mean more novel",
        )


def scores_depend_on_their_group_alone(make: MakeDetector, table: MakeTable) -> None:
    """Float64, one a group, the same again, in another order and by itself."""
    detector, groups = _fitted(make, table, 2), table(20, 2, 1)
    scores = detector.score(groups)
    require(
        scores.shape == (20,) and scores.dtype == np.float64,
        f"{detector.name} returned {scores.dtype} scores of shape {scores.shape} for 20 groups, expected float64 (20,)",
    )
    same = partial(np.testing.assert_allclose, rtol=1e-10, err_msg=f"{detector.name}: scores of the same groups")
    np.testing.assert_array_equal(detector.score(groups), scores, err_msg=f"{detector.name}: scored twice")
    order = np.random.default_rng(0).permutation(20)
    same(detector.score(groups.select(order)), scores[order])
    same(detector.score(groups.select([7])), scores[[7]])


def members_of_a_group_have_no_order(make: MakeDetector, table: MakeTable) -> None:
    """A group is a set of samples: its score is the same whatever their order."""
    detector, groups = _fitted(make, table, 3), table(20, 3, 1)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(3), (20, 1)), axis=1)
    rows = np.arange(20)[:, None]
    mixed = replace(
        groups,
        blocks={name: v if is_group_block(name) else v[rows, order] for name, v in groups.blocks.items()},
        ids=tuple(tuple(ids[i] for i in places) for ids, places in zip(groups.ids, order, strict=True)),
        keys=groups.keys[rows, order],
    )
    np.testing.assert_allclose(
        detector.score(mixed),
        detector.score(groups),
        rtol=1e-8,
        err_msg=f"{detector.name}: scores of the same groups, their members in another order",
    )


def what_is_required_suffices(make: MakeDetector, table: MakeTable) -> None:
    """A table with the blocks of ``requires``, and no others, gives the same scores."""

    def narrow(groups: FeatureTable) -> FeatureTable:
        kept = set(make().requires)
        return replace(
            groups,
            blocks={name: v for name, v in groups.blocks.items() if name in kept},
            columns={name: v for name, v in groups.columns.items() if name in kept},
        )

    fit, groups = table(_FIT), table(20, 1, 1)
    np.testing.assert_allclose(
        make().fit(narrow(fit)).score(narrow(groups)),
        make().fit(fit).score(groups),
        rtol=1e-10,
        err_msg=f"{make().name}: scores with the required blocks alone, and with all",
    )


def tables_are_left_alone(make: MakeDetector, table: MakeTable) -> None:
    """Neither fit nor score changes its input in place."""
    groups, untouched = table(60), table(60)
    make().fit(groups).score(groups)
    for block, values in groups.blocks.items():
        np.testing.assert_array_equal(values, untouched.blocks[block], err_msg=f"block '{block}' was changed in place")


def state_is_arrays_that_come_back(make: MakeDetector, table: MakeTable) -> None:
    """What was learnt is numbers, and a file of it gives bit-equal scores, of many groups and of each by itself."""
    detector, groups = _fitted(make, table), table(30, 1, 1)
    for key, value in detector.state().items():
        require(value.dtype.kind in "fiub", f"{detector.name}.{key} is of dtype {value.dtype}, expected numbers")
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(path := Path(folder) / "detector.safetensors", detector.state(), {})
        restored = make().restore(read_arrays(path)[0])
    for rows in (range(len(groups)), *([row] for row in range(len(groups)))):
        some = groups.select(rows)
        np.testing.assert_array_equal(
            restored.score(some), detector.score(some), err_msg=f"{detector.name}: scores after saving and loading"
        )


def fits_are_repeatable(make: MakeDetector, table: MakeTable) -> None:
    """The same fit gives the same scores."""
    groups = table(30, 1, 1)
    first, second = (_fitted(make, table).score(groups) for _ in range(2))
    np.testing.assert_array_equal(first, second, err_msg="two fits on the same groups score differently")


def p_values_are_calibrated(make: MakeDetector, table: MakeTable) -> None:
    """Calibration and test scores are alike (Kolmogorov-Smirnov), and false alarms as many as promised."""
    detector = _fitted(make, table)
    scores = [detector.score(table(199, 1, seed)) for seed in range(1, 17)]
    pairs = list(zip(scores[::2], scores[1::2], strict=True))
    worst = min(stats.ks_2samp(calibration, test).pvalue for calibration, test in pairs)
    require(worst > 1e-4, f"{detector.name}: calibration and test scores differ, Kolmogorov-Smirnov p = {worst:.2g}")
    for level in (0.01, 0.05, 0.1):
        counts = [alarms(ConformalCalibration.from_scores(c).p_value(t), level).sum() for c, t in pairs]
        # level = k / (n + 1): the count is beta-binomial, the pairs independent
        flagged = round(level * 200)
        expected = stats.betabinom(199, flagged, 200 - flagged)
        off, allowed = abs(np.mean(counts) - expected.mean()), 4 * expected.std() / np.sqrt(len(pairs))
        require(
            off < allowed,
            f"{detector.name}: {np.mean(counts):.4g} false alarms of 199 at level {level}, expected "
            f"{expected.mean():.4g} +- {allowed:.3g}; many equal scores do this too",
        )


def constant(table: FeatureTable, n: int) -> FeatureTable:
    """Return a table of n times its first group."""
    first = table.select([0])
    return replace(
        first,
        blocks={k: np.repeat(v, n, axis=0) for k, v in first.blocks.items()},
        ids=first.ids * n,
        keys=np.repeat(first.keys, n, axis=0),
    )


def constant_groups_are_scored_or_refused(make: MakeDetector, table: MakeTable) -> None:
    """Equal fit groups give finite scores or a DataError; equal groups get equal scores."""
    usual, name = table(1), make().name
    try:
        detector = make().fit(constant(usual, 40))
    except DataError:
        pass
    else:
        require(np.isfinite(detector.score(constant(usual, 5))).all(), f"{name}: fitted on equal groups")
        odd, others = np.abs(detector.score(table(20, 1, 1))).max(), np.abs(_fitted(make, table).score(table(20, 1, 1)))
        require(
            odd <= _ABSURD * max(1.0, others.max()),
            f"{name}: fitted on equal groups, it scores others up to {odd:.3g}; it divides by a deviation that is "
            "round-off, which has to be refused like 0",
        )
    scores = _fitted(make, table).score(constant(usual, 5))
    require(np.isfinite(scores).all(), f"{name}: scores of equal groups are {scores}, expected finite ones")
    require(
        np.ptp(scores) <= 1e-9 * np.abs(scores).max(),
        f"{name}: scores of equal groups are {scores}, expected one number",
    )


def extreme_groups_have_finite_scores(make: MakeDetector, table: MakeTable) -> None:
    """Whispers and shouts are scored, never NaN or inf."""
    detector = _fitted(make, table)
    for loudness in (1e-8, 1e6):
        scores = detector.score(table(10, 1, 1, loudness))
        require(np.isfinite(scores).all(), f"{detector.name}: scores at loudness {loudness} are {scores}")


def misuse_is_refused(make: MakeDetector, table: MakeTable) -> None:
    """No score before a fit, no fit on too few groups, and a missing block is named."""
    detector, groups = make(), table(60)
    require_refusal(lambda: detector.score(groups), NotFittedError, "before it was fitted", "by a score without a fit")
    if detector.min_fit > 1:
        few, words = groups.select(slice(0, detector.min_fit - 1)), f"it needs at least {detector.min_fit}"
        require_refusal(lambda: detector.fit(few), DataError, words, f"by a fit on {len(few)} groups")
    empty = replace(groups, blocks={}, columns={})
    fitted = _fitted(make, table)
    require_refusal(lambda: fitted.score(empty), DataError, "the table has no block", "by a table without blocks")


def the_fewest_groups_suffice(make: MakeDetector, table: MakeTable) -> None:
    """A fit on ``min_fit`` groups works."""
    detector = make()
    scores = detector.fit(table(max(detector.min_fit, 2))).score(table(20, 1, 1))
    require(np.isfinite(scores).all(), f"{detector.name}: scores after a fit on {detector.min_fit} groups are {scores}")


def cotangents_are_slopes(make: MakeDetector, table: MakeTable) -> None:
    """Of a differentiable detector: d score / d block agrees with small steps, is of the group alone, and finite."""
    if not is_differentiable(make()):
        return
    for size in (1, 3):
        detector, groups = _fitted(make, table, size), _real_valued(table(12, size, 1))
        slopes = score_cotangent(detector, groups)
        require(slopes and set(slopes) <= set(detector.requires), f"{detector.name} has slopes of {set(slopes)}")
        for block, slope in slopes.items():
            _require_slope(detector, groups, block, slope)
        for block in detector.requires:
            if block not in slopes and (block == "log_p" or is_group_block(block)):
                _require_slope(detector, groups, block, np.zeros(groups.blocks[block].shape))
    order = np.random.default_rng(0).permutation(12)
    for block, slope in score_cotangent(detector, groups).items():
        again = score_cotangent(detector, groups.select(order))[block]
        tolerance = 1e-12 * np.abs(slope).max()
        np.testing.assert_allclose(again, slope[order], rtol=1e-9, atol=tolerance, err_msg=f"{detector.name}: {block}")
    for loudness in (1e-8, 1e6):
        score_cotangent(_fitted(make, table), table(10, 1, 1, loudness))  # NaN and inf are its errors


def _real_valued(table: FeatureTable) -> FeatureTable:
    """Return the table with pixels that can be moved a little."""
    if "pixels" not in table.blocks:
        return table
    return replace(table, blocks={**table.blocks, "pixels": table.blocks["pixels"].astype(np.float64)})


def _require_slope(detector: Detector, groups: FeatureTable, block: str, slope: NDArray[np.float64]) -> None:
    values = groups.blocks[block]
    require(
        slope.shape == values.shape and slope.dtype == np.float64,
        f"{detector.name}: the slope of '{block}' is {slope.dtype} {slope.shape}, expected float64 {values.shape}",
    )
    # entries differ by orders of magnitude between layers: move each by a share of its usual size
    usual = np.abs(values).mean((0, 1) if values.ndim > 2 else 0)
    direction = np.random.default_rng(3).normal(size=values.shape) * usual

    def scores(step: float) -> NDArray[np.float64]:
        return detector.score(replace(groups, blocks={**groups.blocks, block: values + step * direction}))

    expected = (scores(1e-6) - scores(-1e-6)) / 2e-6
    found = (slope * direction).reshape(len(groups), -1).sum(1)
    tolerance = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance, err_msg=f"{detector.name}: slope of {block}")


def updates_take_groups_in(make: MakeDetector, table: MakeTable) -> None:
    """Of an updatable detector: ``partial_fit`` needs a fit, leaves its table alone and gives a usable detector."""
    detector, more, untouched = make(), table(70, 1, 5), table(70, 1, 5)
    if not is_updatable(detector):
        return
    require_refusal(
        lambda: detector.partial_fit(more), NotFittedError, "before it was fitted", "by partial_fit without a fit"
    )
    fitted = make().fit(table(80))
    before = {key: value.copy() for key, value in fitted.state().items()}
    require(is_updatable(fitted) and fitted.partial_fit(more) is fitted, f"{detector.name}.partial_fit returns self")
    after = fitted.state()
    require(before.keys() == after.keys(), f"{detector.name} has learnt {set(after)}, {set(before)} at the fit")
    for key, value in after.items():
        require(value.shape == before[key].shape, f"{detector.name}.{key} has changed its shape to {value.shape}")
    for block, values in more.blocks.items():
        np.testing.assert_array_equal(values, untouched.blocks[block], err_msg=f"block '{block}' was changed in place")
    require(np.isfinite(fitted.score(table(20, 1, 1))).all(), f"{detector.name}: scores after an update")


DETECTOR_LAWS: Final[Mapping[str, DetectorLaw]] = {
    law.__name__: law
    for law in (
        louder_is_more_novel,
        scores_depend_on_their_group_alone,
        members_of_a_group_have_no_order,
        what_is_required_suffices,
        tables_are_left_alone,
        state_is_arrays_that_come_back,
        fits_are_repeatable,
        p_values_are_calibrated,
        constant_groups_are_scored_or_refused,
        extreme_groups_have_finite_scores,
        misuse_is_refused,
        the_fewest_groups_suffice,
        cotangents_are_slopes,
        updates_take_groups_in,
    )
}
"""Every law by name."""
