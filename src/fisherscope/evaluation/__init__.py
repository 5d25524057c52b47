"""Metrics with intervals, paired comparison and the protocol."""

from fisherscope.evaluation.bootstrap import METRICS, Bootstrap, Interval, bootstrap_metrics, metric_intervals
from fisherscope.evaluation.calibration import CalibrationCheck, check_calibration, false_alarm_interval
from fisherscope.evaluation.compare import Comparison, compare_auroc
from fisherscope.evaluation.metrics import aupr_in, aupr_out, auroc, fpr_at_tpr, roc_points
from fisherscope.evaluation.protocol import (
    Protocol,
    Split,
    cluster_sizes,
    group_indices,
    join_equal,
    out_dist_groups,
    random_parts,
    split_in_dist,
)
from fisherscope.evaluation.records import (
    PairScores,
    Record,
    compare_detectors,
    evaluate_pair,
    evaluate_scores,
    read_records,
    write_records,
)
from fisherscope.evaluation.resampled import ResampledPair, average, compare, resample_pair

__all__ = [
    "METRICS",
    "Bootstrap",
    "CalibrationCheck",
    "Comparison",
    "Interval",
    "PairScores",
    "Protocol",
    "Record",
    "ResampledPair",
    "Split",
    "aupr_in",
    "aupr_out",
    "auroc",
    "average",
    "bootstrap_metrics",
    "check_calibration",
    "cluster_sizes",
    "compare",
    "compare_auroc",
    "compare_detectors",
    "evaluate_pair",
    "evaluate_scores",
    "false_alarm_interval",
    "fpr_at_tpr",
    "group_indices",
    "join_equal",
    "metric_intervals",
    "out_dist_groups",
    "random_parts",
    "read_records",
    "resample_pair",
    "roc_points",
    "split_in_dist",
    "write_records",
]
