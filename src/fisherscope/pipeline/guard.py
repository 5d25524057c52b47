"""A guard: a model, a detector fitted to its features, a calibration; it scores, promises, explains and learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fisherscope.core.errors import CardMismatchError
from fisherscope.core.keys import KeyArray, among
from fisherscope.core.table import Card, FeatureTable, require_columns
from fisherscope.detectors import ConformalCalibration, Detector
from fisherscope.detectors.base import Scores
from fisherscope.detectors.conformal import alarms, cluster_bound, require_fpr
from fisherscope.features.companions import Companion
from fisherscope.features.metrics import FisherMetric, SketchSettings
from fisherscope.models.base import trained_on
from fisherscope.pipeline.batches import Batches, as_batches, require_form
from fisherscope.pipeline.extraction import ExtractSettings, ReportProgress, extract_table
from fisherscope.pipeline.target import Target

if TYPE_CHECKING:
    from fisherscope.pipeline.explanation import Explanation
    from fisherscope.pipeline.saliency import ExplainSettings


@dataclass(frozen=True)
class Verdict:
    """What a guard says of groups of samples, arrays of shape (n_groups,).

    Attributes:
        ids: names of each group's samples.
        score: higher = more novel.
        p_value: share of in-distribution groups at least as novel, see :class:`ConformalCalibration`.
        novel: whether p_value <= the guard's false-alarm rate.
        known: whether it holds a sample that the guard was fitted or calibrated on or that one of its models was
            trained on, where they say: the p-value of such a group promises nothing.
        left_out: names of the samples that fill no last group and were not judged.
    """

    ids: tuple[tuple[str, ...], ...]
    score: Scores
    p_value: Scores
    novel: NDArray[np.bool_]
    known: NDArray[np.bool_]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Guard:
    """A model, a detector fitted to its features, and a calibration; ``fit`` and ``load`` make one.

    Attributes:
        target: the model that is guarded.
        detector: fitted on one part of the in-distribution samples.
        calibration: scores of the other part.
        fpr: wanted false-alarm rate.
        card: card of the fit table; every later table must agree with it.
        columns: layer names of the fit table.
        seen: keys of all samples that the guard has learnt from or was calibrated on, sorted.
        max_memory: bytes that one gradient pass may use, or None.
        metrics: fitted on the same part as the detector, for detectors that read gradients measured in them.
        companions: further models, for detectors that need them.
        held: blocks of the calibration groups, which :meth:`update` scores again; None where it cannot.
        clusters: how many calibration samples each cluster has; None where the samples are independent.
        form: kind and shape of the samples (:attr:`Batches.form`) where the model does not say which it takes; None
            where it does.
        sample_columns: names of the columns of the samples; None where these had none, or where the guard was fitted
            on a table.
    """

    target: Target
    detector: Detector
    calibration: ConformalCalibration
    fpr: float
    card: Card
    columns: dict[str, tuple[str, ...]]
    seen: KeyArray
    max_memory: int | None = None
    metrics: tuple[FisherMetric, ...] = ()
    companions: tuple[Companion, ...] = ()
    held: FeatureTable | None = None
    clusters: tuple[int, ...] | None = None
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
        """Largest rate of false alarms on average: ``fpr``, or the mean over new clusters of theirs, see :func:`fit`.

        None where groups of several samples are made of clusters: nothing is promised of those.
        """
        if self.clusters is None:
            return self.fpr
        return cluster_bound(self.clusters, self.fpr) if self.card.group_size == 1 else None

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
        form = form_of(table)
        if self.form is not None and form is not None:
            require_form(form, self.form, table.card.data_name, "the guard was fitted on")

    def extract(self, x: Any, report: ReportProgress | None = None) -> FeatureTable:
        """Return the feature table of samples, extracted as the fit samples were."""
        return self.extract_checked(self.batches(x), report)

    def extract_checked(self, batches: Batches, report: ReportProgress | None = None) -> FeatureTable:
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

    def judge(self, x: Any, report: ReportProgress | None = None) -> Verdict:
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
        return Verdict(table.ids, score, p_value, alarms(p_value, self.fpr), self._known(table.keys), left_out)

    def _known(self, keys: KeyArray) -> NDArray[np.bool_]:
        """Return which groups, given by their samples' keys (n_groups, B), hold a sample learnt from before."""
        learnt = among(keys, self.seen)
        for module in (self.target.module, *(companion.module for companion in self.companions)):
            learnt |= trained_on(module, keys)
        return np.asarray(learnt.any(1))

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
        report: ReportProgress | None = None,
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
        from fisherscope.pipeline.guard_files import save_guard

        save_guard(self, Path(folder))


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


def form_of(table: FeatureTable) -> Mapping[str, str] | None:
    """Return kind and shape of a table's samples; None where an earlier version extracted it, which did not say."""
    return table.card.settings.get("samples")
