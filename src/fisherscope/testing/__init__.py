"""The laws that every detector and every Fisher metric keeps, to be run on your own.

Plain functions without a test runner: a broken law is an AssertionError that says which and by how much. The contract
tests of the library run the same ones.
"""

from fisherscope.testing.detector_laws import DETECTOR_LAWS, check_detector
from fisherscope.testing.metric_laws import METRIC_LAWS, check_metric
from fisherscope.testing.tables import MakeTable, synthetic_table

__all__ = ["DETECTOR_LAWS", "METRIC_LAWS", "MakeTable", "check_detector", "check_metric", "synthetic_table"]
