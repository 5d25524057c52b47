"""A synthetic world of gradients, likelihoods and pixels, for laws of detectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import numpy as np

from fisherscope.core.table import Card, FeatureTable

LAYERS: Final = 6
TERMS: Final = 2
SKETCH_SIZE: Final = 16
CODECS: Final = ("png", "webp", "jpeg2000", "zlib")


class MakeTable(Protocol):
    """What makes a table of groups, all from one distribution."""

    def __call__(self, n: int, group_size: int = 1, seed: int = 0, loudness: float = 1.0) -> FeatureTable:
        """Return n groups of ``group_size`` samples by ``seed``; the louder, the more novel; 1: in-distribution."""


def synthetic_table(
    n: int, group_size: int = 1, seed: int = 0, loudness: float = 1.0, *, metrics: Iterable[str] = ()
) -> FeatureTable:
    """Return a table with every block that the library extracts, of no model.

    Args:
        n: number of groups.
        group_size: B.
        seed: of everything.
        loudness: scales the gradients, lowers log p and spreads the pixels; 1: in-distribution.
        metrics: names of Fisher metrics; they get the same numbers as the raw blocks.
    """
    rng = np.random.default_rng(seed)
    mood = rng.normal(size=(n, group_size, 1, 1))
    layers = rng.normal(size=(n, group_size, SKETCH_SIZE, LAYERS)) * np.exp(0.3 * mood) + 0.5
    layers *= loudness * np.logspace(-2, 2, LAYERS)
    norms = np.square(layers.sum(1)).sum(1)
    raw = {"grad_norm": norms, "sketch_norm": norms, "sketch": layers.sum(3), "layer_sketch": layers}
    blocks = {
        **raw,
        "log_p": rng.normal(-100 * loudness, 5, (n, group_size)),
        "term_norm": np.concatenate([norms, norms[:, ::-1]], axis=1),
        "term_log_p": rng.normal(-50 * loudness, 5, (n, group_size, TERMS)),
        "code_length": rng.uniform(50, 60, (n, group_size)),
        "predictive_length": rng.uniform(40, 60, (n, group_size)),
        "codec_bytes": rng.integers(2, 6, (n, group_size, len(CODECS))),
        "statistics": loudness * rng.normal(-50, 5, (n, group_size, 3)),
        "score_norms": loudness * (10 + rng.normal(size=(n, group_size, 10))),
        "path_statistics": loudness * rng.normal(size=(n, group_size, 6)) ** 3,
        "score_curvature": loudness * rng.normal(1.0, 0.2, (n, group_size, 2)),
        "regret": loudness * rng.gamma(4.0, 1.0, (n, group_size)),
        "ensemble_log_p": rng.normal(-100 * loudness, 2, (n, group_size, 3)),
        "background_log_p": rng.normal(-90 * loudness, 1, (n, group_size)),
        "jacobian_spectrum": -np.sort(rng.normal(loudness, 1, (n, group_size, 9))),
        "restoration": loudness * rng.gamma(9.0, 1.0, (n, group_size, 8)),
        "pixels": np.clip(rng.normal(128, 20.0 * loudness, (n, group_size, 1, 3, 3)), 0, 255).astype(np.uint8),
    }
    layered = ["grad_norm", "sketch_norm", "layer_sketch"]
    for name in metrics:
        shares = np.repeat(norms[:, None] / group_size, group_size, axis=1)
        blocks |= {f"metric:{name}": shares, **{f"{kind}:{name}": raw[kind] for kind in raw if kind != "grad_norm"}}
        layered += [f"{kind}:{name}" for kind in ("metric", "sketch_norm", "layer_sketch")]
    return FeatureTable(
        blocks=blocks,
        columns={
            **{k: tuple(f"l{i}" for i in range(LAYERS)) for k in layered},
            "term_norm": tuple(f"l{i} [t{t}]" for t in range(TERMS) for i in range(LAYERS)),
            "codec_bytes": CODECS,
        },
        ids=tuple(tuple(f"{i}.{j}" for j in range(group_size)) for i in range(n)),
        keys=rng.integers(0, 2**63, (n, group_size)).astype(np.uint64),
        card=Card(
            "m", "m", "d", "d", group_size, 0, "float64", {"features": {"grad_norm": {"sizes": [SKETCH_SIZE] * LAYERS}}}
        ),
    )


def scaled(table: FeatureTable, factor: float) -> FeatureTable:
    """Return a table whose gradients are measured in other units."""
    power = {"grad_norm": 2, "sketch_norm": 2, "term_norm": 2, "metric": 2, "sketch": 1, "layer_sketch": 1}
    kinds = {block: block.partition(":")[0] for block in table.blocks}
    blocks = {k: v * factor ** power[kinds[k]] if kinds[k] in power else v for k, v in table.blocks.items()}
    return FeatureTable(blocks, table.columns, table.ids, table.keys, table.card)
