"""The engineer's front door: fit on good samples, promise a false-alarm rate, save, reload, score."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.core.keys import KeyArray
from fisherscope.core.package_code import own_code
from fisherscope.core.store import atomic_folder, read_arrays, read_card, write_arrays
from fisherscope.core.table import Card, FeatureTable
from fisherscope.detectors import (
    DEFAULT_DETECTOR,
    ConformalCalibration,
    Detector,
    is_built_in,
    is_updatable,
    make_detector,
    require_settings_of_name,
)
from fisherscope.detectors.base import Scores, require_columns
from fisherscope.detectors.conformal import groups_needed, require_fpr
from fisherscope.evaluation import count_clusters, join_equal, random_parts
from fisherscope.features.companions import Companion
from fisherscope.features.metrics import (
    FisherMetric,
    SketchSettings,
    is_built_in_metric,
    load_metric,
    metric_fingerprint,
    require_own_name,
    save_metric,
)
from fisherscope.models.base import GenerativeModel, load_model
from fisherscope.pipeline.batches import Batches, as_batches, require_form
from fisherscope.pipeline.companions import (
    Given,
    as_companions,
    require_held_out,
    restore_companions,
    save_companions,
)
from fisherscope.pipeline.extraction import ExtractSettings, extract_table, fit_metrics_on, metrics_in
from fisherscope.pipeline.target import LogProb, Target, as_target, parse_device, parse_dtype, require_served_dtype

if TYPE_CHECKING:
    from fisherscope.pipeline.explanation import Explanation
    from fisherscope.pipeline.saliency import ExplainSettings

_LOG = logging.getLogger(__name__)

FORMAT_VERSION: Final = 3
_GUARD_FILE: Final = "guard.safetensors"
_HELD_FILE: Final = "calibration.safetensors"
_OWNED: Final = (
    _HELD_FILE,
    "metrics/*.safetensors",
    *(
        f"{place}/{name}"
        for place in ("model", "companions/*")
        for name in ("model.json", "model.safetensors", "train_keys.safetensors")
    ),
)
"""What one guard writes and another does not: it must not stay behind where a folder is written again."""


@dataclass(frozen=True)
class Verdict:
    """What a guard says of groups of samples, arrays of shape (n_groups,).

    Attributes:
        ids: names of each group's samples.
        score: higher = more novel.
        p_value: share of in-distribution groups at least as novel, see :class:`ConformalCalibration`.
        novel: whether p_value <= the guard's false-alarm rate.
        left_out: names of the samples that fill no last group and were not judged.
    """

    ids: tuple[tuple[str, ...], ...]
    score: Scores
    p_value: Scores
    novel: NDArray[np.bool_]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Guard:
    """A model, a detector fitted to its features, and a calibration. Make one with :func:`fit` or :func:`load`.

    Attributes:
        target: the model that is guarded.
        detector: fitted on one part of the in-distribution samples.
        calibration: scores of the other part.
        fpr: wanted false-alarm rate.
        card: card of the fit table; every later table must agree with it.
        columns: layer names of the fit table.
        max_memory: bytes that one gradient pass may use, or None.
        metrics: fitted on the same part as the detector, for detectors that read gradients measured in them.
        companions: further models, for detectors that need them.
        held: blocks of the calibration groups, which :meth:`update` scores again; None where it cannot.
        seen: keys of all samples that the guard has learnt from or was calibrated on, sorted.
        clusters: J, number of clusters that the calibration samples come from; None where they are independent.
        form: kind and shape of the samples (:attr:`Batches.form`) where the model does not say which it takes; None
            where it does, or where the guard was saved by an earlier version.
        sample_columns: names of the columns of the samples; None where these had none, where the guard was fitted on
            a table, or as above.
    """

    target: Target
    detector: Detector
    calibration: ConformalCalibration
    fpr: float
    card: Card
    columns: dict[str, tuple[str, ...]]
    max_memory: int | None = None
    metrics: tuple[FisherMetric, ...] = ()
    companions: tuple[Companion, ...] = ()
    held: FeatureTable | None = None
    seen: KeyArray | None = None
    clusters: int | None = None
    form: Mapping[str, str] | None = None
    sample_columns: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        size, count = self.card.group_size, len(self.calibration.scores)
        return (
            f"Guard({self.detector.name} of {self.target.name}, groups of {size}, {count} calibration groups, "
            f"fpr {self.fpr:g})"
        )

    @property
    def false_alarm_bound(self) -> float | None:
        """Largest rate of false alarms on average: ``fpr``, or that of samples of new clusters, see :func:`fit`.

        Clusters are taken to be of equal size. None where groups of several samples are made of clusters: nothing is
        promised of those.
        """
        if self.clusters is None:
            return self.fpr
        return self.fpr + (1 - self.fpr) / (self.clusters + 1) if self.card.group_size == 1 else None

    def batches(self, x: Any) -> Batches:
        """Return samples as :func:`as_batches` does, checked to be of the form of those that the guard was fitted on.

        Raises:
            DataError: they are integers where those were floating, of another shape, or rows with other columns.
        """
        found = as_batches(x, self.target)
        found.require_columns(self.sample_columns, "the guard was fitted on")
        found.require_form(self.form, "the guard was fitted on")
        return found

    def require_table(self, table: FeatureTable) -> None:
        """Raise an error where a table is not one of such samples, extracted as the fit samples were.

        Raises:
            CardMismatchError: it was made with another model or other settings.
            DataError: its samples are of another form than those that the guard was fitted on.
        """
        require_fitting_table(self.card, self.columns, self.detector.requires, table)
        form = _form_of(table)
        if self.form is not None and form is not None:
            require_form(form, self.form, table.card.data_name, "the guard was fitted on")

    def extract(self, x: Any, report: Callable[[int, int], None] | None = None) -> FeatureTable:
        """Return the feature table of samples, extracted as the fit samples were."""
        return self.extract_checked(self.batches(x), report)

    def extract_checked(self, batches: Batches, report: Callable[[int, int], None] | None = None) -> FeatureTable:
        """Return the feature table of samples that :meth:`batches` returned, or of perturbed copies of such."""
        return extract_table(
            self.target, batches, self.detector.requires, self.settings, metrics=self.metrics, report=report
        )

    @property
    def settings(self) -> ExtractSettings:
        """How the fit samples were looked at, and every later one is."""
        return ExtractSettings(
            self.card.group_size,
            self.card.seed,
            max_memory=self.max_memory,
            sketch=sketch_settings(self.card),
            companions=self.companions,
        )

    def judge(self, x: Any, report: Callable[[int, int], None] | None = None) -> Verdict:
        """Return score, p-value and verdict of each group.

        Args:
            x: samples (n, ...) as for :func:`fit`, or a :class:`FeatureTable` of the same model and settings.
            report: called with (samples done, samples in all).

        Raises:
            CardMismatchError: a table of another model, group size, seed or dtype.
            DataError: samples of another kind or shape than those of the fit.
        """
        left_out: tuple[str, ...] = ()
        if isinstance(x, FeatureTable):
            table = x
        else:
            batches = self.batches(x)
            left_out = batches.left_out(self.card.group_size)
            table = self.extract_checked(batches, report)
        self.require_table(table)
        score = self.detector.score(table)
        p_value = self.calibration.p_value(score)
        return Verdict(table.ids, score, p_value, p_value <= self.fpr + 1e-12, left_out)

    def at(self, fpr: float | None) -> Guard:
        """Return the same guard with another false-alarm rate (None: the same one), checked to be attainable."""
        rate = self.fpr if fpr is None else require_fpr(fpr)
        self.calibration.require_groups(rate)
        return replace(self, fpr=rate)

    def score(self, x: Any) -> Scores:
        """Return the novelty of each group, shape (n_groups,). Higher = more novel."""
        return self.judge(x).score

    def p_value(self, x: Any) -> Scores:
        """Return the conformal p-value of each group, shape (n_groups,). Small = novel."""
        return self.judge(x).p_value

    def predict(self, x: Any) -> NDArray[np.bool_]:
        """Return whether each group is novel, shape (n_groups,), at the guard's false-alarm rate."""
        return self.judge(x).novel

    def explain(self, x: Any, settings: ExplainSettings | None = None, *, reference: Any = None) -> Explanation:
        """Say which pixels, tokens or columns and which layers make groups novel; see :func:`explain_groups`.

        Args:
            x: samples (n, ...) as for :func:`fit`.
            settings: kind of map, smoothing, filter; None: ``contrast`` of images, else the absolute gradient.
            reference: in-distribution samples, or their table with ``grad_norm``, to compare the layers with; by
                default what the detector has learnt of them.
        """
        from fisherscope.pipeline.explanation import explain_groups

        return explain_groups(self, x, settings, reference=reference)

    def update(
        self,
        good: Any,
        *,
        allow_training_samples: bool = False,
        report: Callable[[int, int], None] | None = None,
    ) -> Guard:
        """Return a guard that has learnt from further good samples too, calibrated again; this one stays as it is.

        A random half of the new groups (by the seed of the fit, clusters kept whole) goes to the detector and to its
        metrics, the other half to the calibration: no sample fits and calibrates. Projections, bases, scales and
        dampings stay as the first fit chose them. The calibration groups of before are kept and scored again, so any
        number of new groups from two on will do. Where the detector reads gradients in a metric that itself learns
        (``total-norm@diagonal``), those of before cannot be measured again without their samples: then the new half
        alone calibrates and must have ceil(1/fpr) - 1 groups; a detector that keeps means over groups in that metric
        (``layerwise-gaussian@diagonal``) keeps those of before as they were measured.

        The promise of :func:`fit` holds for new groups that are like the old and the new good ones together; samples
        of clusters that the guard has seen break it.

        Args:
            good: in-distribution samples as for :func:`fit`, none of which the guard or the model has seen; or a table
                of the same model and settings where no metric learns.
            allow_training_samples: accept samples that the model was trained on.
            report: called with (samples done, samples in all).

        Raises:
            SettingError: the detector cannot be updated; the message names those that can.
            DataError: too few samples, or samples that were given before or that the model was trained on.
        """
        from fisherscope.pipeline.update import update_guard

        return update_guard(self, good, allow_training_samples=allow_training_samples, report=report)

    def save(self, folder: str | Path) -> None:
        """Write the guard as safetensors and JSON; a :class:`GenerativeModel` is saved along with it.

        A user's own module is not saved, only its fingerprint: pass it to :func:`load`. A guard that the folder holds
        is replaced when everything is written; other files in it stay.
        """
        with atomic_folder(Path(folder), _GUARD_FILE, _OWNED) as new:
            self._write(new)

    def _write(self, folder: Path) -> None:
        if isinstance(self.target.module, GenerativeModel) and self.target.log_prob is None:
            self.target.module.save(folder / "model")
        head = {
            "format_version": FORMAT_VERSION,
            "detector": self.detector.name,
            "fpr": self.fpr,
            "card": asdict(self.card),
            "columns": {k: list(v) for k, v in self.columns.items()},
            "metrics": {metric.name: metric_fingerprint(metric) for metric in self.metrics},
            "companions": save_companions(self.companions, folder),
            "held": self.held is not None,
            "clusters": self.clusters,
            "form": self.form,
            "sample_columns": self.sample_columns,
            "own_log_prob": self.target.log_prob is not None,
        }
        if self.held is not None:
            self.held.save(folder / _HELD_FILE)
        arrays = {f"detector.{k}": v for k, v in self.detector.state().items()}
        for metric in self.metrics:
            save_metric(metric, _metric_file(folder, metric.name), sketch_settings(self.card))
        arrays["calibration"] = self.calibration.scores
        if self.seen is not None:
            arrays["seen"] = self.seen
        write_arrays(folder / _GUARD_FILE, arrays, head)


def fit(
    model: nn.Module | Target | str | Path,
    data: Any,
    *,
    log_prob: LogProb | None = None,
    detector: str | Detector = DEFAULT_DETECTOR,
    fpr: float = 0.01,
    group_size: int | None = None,
    seed: int = 0,
    max_memory: int | None = None,
    allow_training_samples: bool = False,
    companions: Mapping[str, Given] | None = None,
    metrics: Sequence[FisherMetric] = (),
    report: Callable[[int, int], None] | None = None,
) -> Guard:
    """Fit a guard on in-distribution samples that the model was not trained on.

    A random half (by ``seed``) fits the detector, the other half calibrates it. Averaged over such halves, new
    in-distribution groups raise false alarms at a rate of at most ``fpr``.

    Samples that come in clusters (frames of a video track, ``Samples.clusters``) are not independent: whole clusters
    are shuffled, and none has samples in both parts. With J clusters of equal size to calibrate and B = 1, samples of
    NEW clusters raise false alarms at a rate of at most fpr + (1 - fpr) / (J + 1), since the pooled p-value lies that
    close to one that is valid for clusters (Lee, Barber & Willett 2023, arXiv 2306.06342): the number of clusters
    decides how small a rate can be held, not that of samples (:attr:`Guard.false_alarm_bound`; a warning is logged
    where J < ceil(1/fpr) - 1). A :class:`FeatureTable` knows no clusters; give samples.
    Samples that are equal count as one cluster, in a table too.

    Args:
        model: a module in the mode, dtype and on the device where it will serve, or the folder of a saved model.
        data: in-distribution samples: an array, tensor or pytree of tensors with the batch first, samples, the name
            or path of a set, or a :class:`FeatureTable` extracted from such samples.
        log_prob: callable ``(module, x) -> (n,)`` in nats; it receives ``seed`` and ``keys`` if it accepts them.
            Images reach it as 0..255 in the module's dtype. None for a model with its own ``log_prob``.
        detector: a name (``fisherscope.detector_names()``), ``package.module:Class``, or an unfitted detector, of which
            the guard takes a copy.
        fpr: wanted false-alarm rate; it needs at least ceil(1/fpr) - 1 calibration groups.
        group_size: B, how many samples are judged together; None: 1, or that of a feature table.
        seed: of the split and of the model's noise.
        max_memory: bytes that one gradient pass may use.
        allow_training_samples: fit even on samples that the model was trained on.
        companions: further models by name, for detectors that need them: ``background`` for the likelihood ratio,
            any others for WAIC.
        metrics: unfitted Fisher metrics of your own that the detector reads by their names (``total-norm@NAME``);
            copies of them are fitted.
        report: called with (samples done, samples in all).

    Returns:
        A guard that scores, gives p-values, predicts and saves.

    Raises:
        DataError: too few samples (the message names the number), NaN, or samples the model was trained on.
        ModelError: the model is in half precision.
        SettingError: a setting is out of range or of another type, or the detector has a built-in name, but not the
            settings that the name stands for.
    """
    fpr, chosen = require_fpr(fpr), _chosen(detector)
    for metric in metrics:
        require_own_name(metric)
    settings = ExtractSettings(1 if group_size is None else group_size, seed, max_memory=max_memory)
    seed, needed = settings.seed, groups_needed(fpr)
    target = as_target(model, log_prob)
    require_served_dtype(target)
    further = as_companions(companions, target)
    fitted: tuple[FisherMetric, ...] = ()
    sample_columns: tuple[str, ...] | None = None
    if isinstance(data, FeatureTable):
        _require_no_metric(chosen)
        if group_size is not None and settings.group_size != data.card.group_size:
            raise SettingError(
                f"group_size is {group_size}, but the feature table holds groups of {data.card.group_size}; leave it "
                "out, or give the samples"
            )
        _require_enough(len(data), needed, chosen, fpr)
        if not allow_training_samples:
            require_held_out(target, further, data.keys, "fit")
        parts = two_table_parts(data, _fit_groups(len(data), needed, chosen), (chosen.min_fit, needed), seed)
        table, n_fit = data.select(np.concatenate(parts)), len(parts[0])
        clusters = clusters_of(None, data.keys[parts[1]])
        warn_of_few_clusters(clusters, fpr)
        target_fingerprint = target.fingerprint()
        if table.card.model != target_fingerprint:
            raise CardMismatchError("model", target_fingerprint, table.card.model, "extract the table with this model")
        if table.card.dtype != target.dtype_name:
            raise CardMismatchError(
                "dtype", target.dtype_name, table.card.dtype, "give the model in the dtype of the table"
            )
        form = _form_of(data)
    else:
        batches, size = as_batches(data, target), settings.group_size
        n_groups = len(batches) // size
        form, sample_columns = batches.form, batches.columns
        _require_enough(n_groups, needed, chosen, fpr)
        if not allow_training_samples:
            require_held_out(target, further, batches.keys, "fit")
        settings = replace(settings, companions=further)
        parts = two_parts(batches, _fit_groups(n_groups, needed, chosen), (chosen.min_fit, needed), size, seed)
        held_part = batches.select(parts[1])
        clusters = clusters_of(held_part.clusters, held_part.keys)
        warn_of_few_clusters(clusters, fpr)
        fit_part, ordered = batches.select(parts[0]), batches.select(np.concatenate(parts))
        fitted = fit_metrics_on(target, fit_part, metrics_in(chosen.requires), settings, own=metrics, report=report)
        table = extract_table(target, ordered, chosen.requires, settings, metrics=fitted, report=report)
        n_fit = len(fit_part) // size
    chosen.fit(table.select(slice(0, n_fit)))
    held = calibration_blocks(table.select(slice(n_fit, None)), chosen, table.card)
    rescored = is_updatable(chosen) and not any(metric.growing for metric in fitted)
    return Guard(
        target,
        chosen,
        ConformalCalibration.from_scores(chosen.score(held)),
        fpr,
        table.card,
        dict(held.columns),
        max_memory,
        fitted,
        further,
        held if rescored else None,
        np.unique(table.keys),
        clusters,
        form if target.data_shape is None else None,
        sample_columns,
    )


def _chosen(detector: str | Detector) -> Detector:
    if isinstance(detector, str):
        return make_detector(detector)
    if not isinstance(detector, Detector):
        raise SettingError(
            f"detector is {detector!r}, expected a name (fisherscope.detector_names()), package.module:Class, or an "
            "instance of a fisherscope.Detector"
        )
    # A copy: an instance may fit several guards, and none may change when another is fitted.
    return copy.deepcopy(require_settings_of_name(detector))


def _fit_groups(n_groups: int, needed: int, detector: Detector) -> int:
    return min(max(n_groups // 2, detector.min_fit), n_groups - needed)


def calibration_blocks(table: FeatureTable, detector: Detector, card: Card) -> FeatureTable:
    """Return what a detector needs of a table of calibration groups, on a guard's card."""
    return replace(
        table,
        blocks={k: v for k, v in table.blocks.items() if k in detector.requires},
        columns={k: v for k, v in table.columns.items() if k in detector.requires},
        card=card,
    )


def two_parts(data: Batches, first: int, least: tuple[int, int], group_size: int, seed: int) -> list[NDArray[np.intp]]:
    """Return the samples of a part of about ``first`` random groups and those of the others, whole groups.

    Clusters, and samples that are equal, are not torn apart: then the cut is the nearest one that leaves each part
    ``least`` groups.
    """
    rng, n = np.random.default_rng(seed), len(data)
    within = (least[0] * group_size, n - least[1] * group_size)
    clusters = data.joined_clusters
    parts = random_parts(n, [first * group_size], rng, clusters, within=within)
    if clusters is not None:
        parts = [rng.permutation(part) for part in parts]  # or a group of several samples would be one cluster's
    return [part[: len(part) // group_size * group_size] for part in parts]


def two_table_parts(table: FeatureTable, first: int, least: tuple[int, int], seed: int) -> list[NDArray[np.intp]]:
    """Return the rows of a part of about ``first`` random groups of a table, and those of the others.

    Groups that share a sample are not torn apart: then the cut is the nearest one that leaves each part ``least``.
    """
    within = (least[0], len(table) - least[1])
    return random_parts(len(table), [first], np.random.default_rng(seed), join_equal(None, table.keys), within=within)


def clusters_of(labels: tuple[str, ...] | None, keys: KeyArray) -> int | None:
    """Return how many clusters samples or groups come from, equal ones being one; None where all are independent."""
    count = count_clusters(labels, keys)
    return None if labels is None and count == len(keys) else count


def warn_of_few_clusters(clusters: int | None, fpr: float) -> None:
    """Log a warning where fewer clusters calibrate than a false-alarm rate needs of independent samples."""
    needed = groups_needed(fpr)
    if clusters is not None and clusters < needed:
        _LOG.warning(
            "fisherscope: the calibration samples come from %d clusters; a false-alarm rate of %g on samples of new "
            "clusters takes at least %d: give samples of more clusters or a larger fpr",
            clusters,
            fpr,
            needed,
        )


def _form_of(table: FeatureTable) -> Mapping[str, str] | None:
    """Return kind and shape of a table's samples; None where an earlier version extracted it, which did not say."""
    return table.card.settings.get("samples")


def _require_no_metric(detector: Detector) -> None:
    if names := metrics_in(detector.requires):
        raise SettingError(
            f"{detector.name} measures gradients in the metric '{names[0]}', which is fitted on samples; "
            "give samples instead of a table"
        )


def _require_enough(n_groups: int, needed: int, detector: Detector, fpr: float) -> None:
    if n_groups < needed + detector.min_fit:
        raise DataError(
            f"{n_groups} groups were given; a false-alarm rate of {fpr:g} needs {needed} to calibrate and "
            f"{detector.name} at least {detector.min_fit} to fit, {needed + detector.min_fit} in all; "
            f"give more in-distribution samples{' or a larger fpr' if needed > 1 else ''}"
        )


def require_fitting_table(
    card: Card, columns: dict[str, tuple[str, ...]], blocks: tuple[str, ...], table: FeatureTable
) -> None:
    """Raise :class:`CardMismatchError` when a table was extracted with another model or settings than a card's."""
    for name in ("model", "group_size", "seed", "dtype"):
        if getattr(card, name) != getattr(table.card, name):
            raise CardMismatchError(
                name, getattr(card, name), getattr(table.card, name), "extract with the model and settings of the fit"
            )
    for block, names in columns.items():
        require_columns(names, table.columns.get(block, ()))
    for block in blocks:
        mine, theirs = (c.settings.get("features", {}).get(block) for c in (card, table.card))
        if mine != theirs:
            raise CardMismatchError(
                f"settings of {block}", mine, theirs, "extract with the guard, which knows its projections and metrics"
            )


def sketch_settings(card: Card) -> SketchSettings:
    """Return the sizes and the seed of the sketches in tables of a card."""
    return SketchSettings(**card.settings.get("sketch", {}))


def _metric_file(folder: Path, name: str) -> Path:
    return folder / "metrics" / f"{name.replace(':', '-')}.safetensors"


def _load_metrics(
    folder: Path, fingerprints: dict[str, str], given: Sequence[FisherMetric]
) -> tuple[FisherMetric, ...]:
    own = {metric.name: metric for metric in given}
    metrics = []
    for name, expected in fingerprints.items():
        # A name from a file must be known before it becomes a path, and must not decide what gets imported.
        if not is_built_in_metric(name) and name not in own:
            raise SettingError(
                f"the guard measures gradients in '{name}', which is no metric of the library; pass an unfitted one of "
                "your own in metrics= (on the command line: --metric-class package.module:Class)"
            )
        metric = load_metric(_metric_file(folder, name), copy.deepcopy(own.get(name)))
        found = metric_fingerprint(metric)
        if found != expected:
            raise CardMismatchError(f"metric {name}", expected, found, "fit the detector again")
        metrics.append(metric)
    return tuple(metrics)


def load(
    folder: str | Path,
    module: nn.Module | None = None,
    log_prob: LogProb | None = None,
    *,
    detector: Detector | None = None,
    device: str = "cpu",
    max_memory: int | None = None,
    companions: Mapping[str, Given] | None = None,
    metrics: Sequence[FisherMetric] = (),
) -> Guard:
    """Load a guard that :meth:`Guard.save` wrote. Nothing in the folder is executed or unpickled.

    Args:
        folder: the saved folder.
        module: the guarded module; None where it was saved along (a :class:`GenerativeModel`).
        log_prob: its log-prob callable, as it was given to :func:`fit`.
        detector: an unfitted instance, needed only for a detector class of your own.
        device: where a model that was saved along goes.
        max_memory: bytes that one gradient pass may use.
        companions: those of the fit that are modules of your own, by name.
        metrics: unfitted instances, needed only for Fisher metrics of your own.

    A warning is logged where the code of the user's own model or log_prob has changed since the fit.

    Raises:
        CardMismatchError: the module is not the one the guard was fitted for, or the detector is called otherwise.
        ModelError: no module was saved along and none is given.
    """
    folder = Path(folder)
    card = saved_card(folder)
    arrays, head = read_arrays(folder / _GUARD_FILE)
    target = _guarded_target(folder, module, log_prob, card, device)
    fingerprint = target.fingerprint()
    if fingerprint != card.model:
        raise CardMismatchError("model", card.model, fingerprint, "give the module that the guard was fitted for")
    if target.dtype_name != card.dtype:
        raise CardMismatchError("dtype", card.dtype, target.dtype_name, f"convert the module to {card.dtype}")
    given = target.log_prob is not None
    if head.get("own_log_prob", given) != given:
        wanted = "pass log_prob= as it was given to fit" if head["own_log_prob"] else "leave log_prob= out"
        raise ModelError(f"{folder} was fitted {'without' if given else 'with'} a log_prob of its own; {wanted}")
    if own_code(target.module, target.log_prob) != card.settings.get("own_code", ""):
        _LOG.warning(
            "fisherscope: the code of %s, or of its log_prob, is not that of the fit; if that changes log p, fit again",
            card.model_name,
        )
    chosen = copy.deepcopy(detector) or _built_in(head["detector"])
    if chosen.name != head["detector"]:
        raise CardMismatchError("detector", head["detector"], chosen.name, "give the detector of the fit")
    chosen.restore({k.removeprefix("detector."): v for k, v in arrays.items() if k.startswith("detector.")})
    columns = {k: tuple(v) for k, v in head["columns"].items()}
    calibration = ConformalCalibration.from_scores(arrays["calibration"])
    fitted = _load_metrics(folder, head["metrics"], metrics)
    further = restore_companions(folder, head.get("companions", {}), companions, target)
    held = _load_held(folder, card, columns, chosen, calibration) if head.get("held") else None
    return Guard(
        target,
        chosen,
        calibration,
        head["fpr"],
        card,
        columns,
        max_memory,
        fitted,
        further,
        held,
        arrays.get("seen"),
        head.get("clusters"),
        head.get("form"),
        tuple(head["sample_columns"]) if head.get("sample_columns") else None,
    )


def saved_card(folder: Path) -> Card:
    """Return the card of a saved guard, which says what to load its model as."""
    if not (folder / _GUARD_FILE).is_file():
        raise DataError(f"{folder} is not a saved detector: it holds no {_GUARD_FILE}")
    head = read_card(folder / _GUARD_FILE)
    if head.get("format_version") != FORMAT_VERSION:
        raise CardMismatchError("format_version", FORMAT_VERSION, head.get("format_version"), "fit the detector again")
    return Card.from_json(head["card"])


def _load_held(
    folder: Path, card: Card, columns: dict[str, tuple[str, ...]], detector: Detector, calibration: ConformalCalibration
) -> FeatureTable:
    held = FeatureTable.load(folder / _HELD_FILE)
    require_fitting_table(card, columns, detector.requires, held)
    if len(held) != len(calibration.scores):
        raise CardMismatchError("calibration groups", len(calibration.scores), len(held), "fit the detector again")
    return held


def _guarded_target(
    folder: Path, module: nn.Module | None, log_prob: LogProb | None, card: Card, device: str
) -> Target:
    if module is not None:
        return as_target(module, log_prob)
    if log_prob is not None:
        raise SettingError("a log_prob was given without the module that it asks; pass module= too, or leave it out")
    if not (folder / "model" / "model.json").is_file():
        raise ModelError(
            f"{folder} holds no model of its own (it guards {card.model_name}); pass module= and log_prob=, on the "
            "command line --model package.module:factory"
        )
    module = load_model(folder / "model", device=parse_device(device), dtype=parse_dtype(card.dtype))
    return Target(module, None, card.model_name)


def _built_in(name: str) -> Detector:
    # A name from a file must not decide what gets imported.
    if not is_built_in(name):
        raise SettingError(
            f"the guard uses a detector of your own, '{name}'; pass an unfitted one as "
            "detector= (on the command line: --detector-class package.module:Class)"
        )
    return make_detector(name)
