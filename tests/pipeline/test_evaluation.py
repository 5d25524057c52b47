"""The parts that an evaluation fits, calibrates and tests on."""

from dataclasses import replace
from itertools import combinations

import numpy as np

from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, score_sets


def test_equal_samples_are_in_one_part(target, digits):
    in_dist = as_batches(np.concatenate([digits.x[:60], digits.x[:40]]), target)
    settings = EvaluationSettings(("likelihood",), group_sizes=(1, 2))
    scored = score_sets(target, in_dist, [as_batches(digits.select(range(100, 120)), target)], settings)
    for size, group in scored.groups.items():
        keys = [set(table.keys.ravel().tolist()) for table in group.parts.values()]
        assert not any(a & b for a, b in combinations(keys, 2))
        assert sum(len(table) for table in group.parts.values()) * size > 100 - 3 * size
    protocol = scored.protocol
    assert protocol.n_fit + protocol.n_calibration + protocol.n_test == 100


def test_equal_samples_are_resampled_together(target, digits):
    twice = as_batches(np.concatenate([digits.x, digits.x]), target)
    other = as_batches(1 - digits.x, target)
    scored = score_sets(target, twice, [replace(other, name="other")], EvaluationSettings(("likelihood",), (1,)))
    pair = scored.groups[1].pairs["other"]
    assert scored.protocol.clustered == (twice.name,)
    assert pair.clusters_out is None and len(set(pair.clusters_in)) == len(pair.clusters_in) // 2
