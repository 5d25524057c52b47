"""Results: one flat record for each (in-distribution set, OOD set, group size, detector)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from fisherscope.core.errors import DataError
from fisherscope.core.store import read_json, write_json
from fisherscope.evaluation.bootstrap import Bootstrap, Clusters, metric_intervals
from fisherscope.evaluation.calibration import CalibrationCheck, check_calibration
from fisherscope.evaluation.compare import Comparison, compare_auroc
from fisherscope.evaluation.metrics import Scores, check_scores


@dataclass(frozen=True)
class Record:
    """Figures of one detector on one pair of sets. OOD is the positive class.

    Attributes:
        in_dist: name of the in-distribution set.
        out_dist: name of the OOD set.
        group_size: B.
        detector: its name.
        auroc: with its bootstrap interval ``auroc_low``, ``auroc_high``, as are the next three.
        aupr: average precision, OOD positive.
        aupr_in: average precision, in-distribution positive.
        fpr95: share of in-distribution groups flagged when 95 % of the OOD groups are.
        n_in: number of in-distribution test groups.
        n_out: number of OOD groups.
        seed: of the run.
        fpr_level: wanted false-positive rate; this and the fields below are None without calibration scores.
        false_alarm_rate: share of in-distribution test groups flagged at that level.
        false_alarm_low: lower end of its beta-binomial interval; None too where in-distribution groups depend on each
            other, as are the upper end and the last field.
        false_alarm_high: upper end.
        n_calibration: number of calibration groups.
        calibration_ks_p: Kolmogorov-Smirnov p-value of calibration against test scores.
    """

    in_dist: str
    out_dist: str
    group_size: int
    detector: str
    auroc: float
    auroc_low: float
    auroc_high: float
    aupr: float
    aupr_low: float
    aupr_high: float
    aupr_in: float
    aupr_in_low: float
    aupr_in_high: float
    fpr95: float
    fpr95_low: float
    fpr95_high: float
    n_in: int
    n_out: int
    seed: int
    fpr_level: float | None = None
    false_alarm_rate: float | None = None
    false_alarm_low: float | None = None
    false_alarm_high: float | None = None
    n_calibration: int | None = None
    calibration_ks_p: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Record:
        """Return the record that :meth:`to_json` turned into ``value``; missing or unknown fields are an error."""
        known = {f.name for f in fields(cls)}
        if set(value) != known:
            missing, unknown = sorted(known - set(value)), sorted(set(value) - known)
            raise DataError(f"not a record: fields {missing} are missing and {unknown} are unknown; evaluate again")
        return cls(**value)


@dataclass(frozen=True)
class PairScores:
    """Scores of every detector on one in-distribution and one OOD set, in the same order of groups.

    Attributes:
        in_dist: name of the in-distribution set.
        out_dist: name of the OOD set.
        group_size: B.
        scores_in: by detector, shape (n_in,).
        scores_out: by detector, shape (n_out,).
        scores_calibration: by detector, shape (n_calibration,); may be empty.
        clusters_in: label of each in-distribution group, or None.
        clusters_out: label of each OOD group, or None.
        independent: whether in-distribution groups are independent of each other. Groups of several samples have no
            cluster to be named by, but depend on each other where their samples do.
    """

    in_dist: str
    out_dist: str
    group_size: int
    scores_in: Mapping[str, Scores]
    scores_out: Mapping[str, Scores]
    scores_calibration: Mapping[str, Scores] = field(default_factory=dict)
    clusters_in: Clusters | None = None
    clusters_out: Clusters | None = None
    independent: bool = True

    def __post_init__(self) -> None:
        """Check that both sides were scored by the same detectors."""
        if set(self.scores_in) != set(self.scores_out):
            raise DataError(
                f"{self.in_dist} was scored by {sorted(self.scores_in)} but {self.out_dist} by "
                f"{sorted(self.scores_out)}; score both with the same detectors"
            )


def evaluate_scores(
    scores_in: ArrayLike,
    scores_out: ArrayLike,
    *,
    in_dist: str,
    out_dist: str,
    detector: str,
    group_size: int,
    bootstrap: Bootstrap,
    scores_calibration: ArrayLike | None = None,
    fpr_level: float = 0.05,
    independent: bool = True,
) -> Record:
    """Return the record of one detector.

    Args:
        scores_in: in-distribution test scores, shape (n_in,).
        scores_out: OOD scores, shape (n_out,).
        in_dist: name of the in-distribution set.
        out_dist: name of the OOD set.
        detector: name of the detector.
        group_size: B.
        bootstrap: how to resample; its seed is the one recorded.
        scores_calibration: in-distribution scores that neither fitted nor test the detector, shape (n,).
        fpr_level: false-positive rate at which false alarms are counted.
        independent: whether in-distribution groups are independent of each other.
    """
    inside, outside = check_scores(scores_in, "in-distribution"), check_scores(scores_out, "out-of-distribution")
    figures: dict[str, Any] = {}
    for name, interval in metric_intervals(inside, outside, bootstrap).items():
        figures |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    if scores_calibration is not None:
        check = check_calibration(scores_calibration, inside, fpr_level, bootstrap.coverage, independent=independent)
        figures |= _calibration_fields(check)
    return Record(
        in_dist=in_dist,
        out_dist=out_dist,
        group_size=group_size,
        detector=detector,
        n_in=len(inside),
        n_out=len(outside),
        seed=bootstrap.seed,
        **figures,
    )


def _calibration_fields(check: CalibrationCheck) -> dict[str, Any]:
    return {
        "fpr_level": check.level,
        "false_alarm_rate": check.rate,
        "false_alarm_low": check.low,
        "false_alarm_high": check.high,
        "n_calibration": check.n_calibration,
        "calibration_ks_p": check.ks_p,
    }


def evaluate_pair(
    pair: PairScores, *, seed: int, fpr_level: float = 0.05, replicates: int = 1000, coverage: float = 0.95
) -> list[Record]:
    """Return the records of all detectors of a pair, in the order of ``pair.scores_in``.

    All detectors see the same resamples. For the arguments see :class:`Bootstrap` and :func:`evaluate_scores`.
    """
    bootstrap = Bootstrap(seed, replicates, coverage, pair.clusters_in, pair.clusters_out)
    return [
        evaluate_scores(
            pair.scores_in[name],
            pair.scores_out[name],
            in_dist=pair.in_dist,
            out_dist=pair.out_dist,
            detector=name,
            group_size=pair.group_size,
            bootstrap=bootstrap,
            scores_calibration=pair.scores_calibration.get(name),
            fpr_level=fpr_level,
            independent=pair.independent,
        )
        for name in pair.scores_in
    ]


def compare_detectors(
    pair: PairScores, a: str, b: str, *, seed: int, replicates: int = 1000, coverage: float = 0.95
) -> Comparison:
    """Return the paired comparison of two detectors of a pair, see :func:`compare_auroc`."""
    return compare_auroc(
        (pair.scores_in[a], pair.scores_out[a]),
        (pair.scores_in[b], pair.scores_out[b]),
        Bootstrap(seed, replicates, coverage, pair.clusters_in, pair.clusters_out),
    )


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write the records as a JSON list, atomically."""
    write_json(Path(path), [record.to_json() for record in records])


def read_records(path: str | Path) -> list[Record]:
    """Read what :func:`write_records` wrote."""
    value = read_json(Path(path))
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{path} is not a JSON list of records; write it with `fisherscope evaluate --json`")
    return [Record.from_json(item) for item in value]
