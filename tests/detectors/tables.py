"""Tables for the tests of detectors."""

import numpy as np

from fisherscope.core.table import Card, FeatureTable

LAYERED = ("grad_norm", "sketch_norm", "term_norm", "layer_sketch")


def table_of(group_size=1, dtype="float64", settings=None, **blocks):
    """A table of blocks; the last axis of layered ones is named l0, l1, ..."""
    n = len(next(iter(blocks.values())))
    return FeatureTable(
        blocks=blocks,
        columns={k: tuple(f"l{i}" for i in range(v.shape[-1])) for k, v in blocks.items() if k in LAYERED},
        ids=tuple(tuple(f"{i}.{j}" for j in range(group_size)) for i in range(n)),
        keys=np.arange(n * group_size, dtype=np.uint64).reshape(n, group_size),
        card=Card("m", "m", "d", "d", group_size, 0, dtype, settings or {}),
    )
