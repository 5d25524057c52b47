"""Each rival against a calculation by hand."""

import math

import numpy as np
from tables import table_of

from fisherscope.detectors import make_detector


def test_typicality_fisher_by_hand():
    # H = 14; typicality of the fit groups: 3, 1, 1, 5. Score statistics: sums over members and layers.
    log_p = -np.array([[10.0, 12.0], [14.0, 16.0], [13.0, 13.0], [18.0, 20.0]]) + 0.375
    log_p = log_p - log_p.mean() - 14.0
    shares = np.array([[[1.0, 2.0], [0.0, 1.0]], [[1, 1], [1, 1]], [[5, 1], [0, 0]], [[0, 0], [0, 8.0]]])
    block = "metric:diagonal-uncentred"
    detector = make_detector("typicality-fisher").fit(table_of(2, **{"log_p": log_p, block: shares}))
    assert math.isclose(detector.entropy_, 14.0)
    typical = [abs(-row.mean() - 14.0) for row in log_p]
    new_log_p = -np.array([[14.0, 14.0], [30.0, 30.0], [14.0, 18.2]])
    new = np.array([[[0.0, 0.0], [0.0, 1.0]], [[9, 9], [9, 9]], [[2.0, 2.0], [2.5, 0.0]]])
    scores = detector.score(table_of(2, **{"log_p": new_log_p, block: new}))
    for i, score in enumerate(scores):
        t, s = abs(-new_log_p[i].mean() - 14.0), new[i].sum()
        p_t = (1 + sum(v >= t for v in typical)) / 5
        p_s = (1 + sum(v >= s for v in (4.0, 4.0, 6.0, 8.0))) / 5
        assert math.isclose(score, -2 * math.log(p_t * p_s), rel_tol=1e-12)
    assert scores[0] == 0.0 and math.isclose(scores[1], -4 * math.log(1 / 5))
