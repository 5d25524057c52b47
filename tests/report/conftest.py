import numpy as np
import pytest

from fisherscope.evaluation import PairScores, Protocol, evaluate_pair
from fisherscope.report import LayerHistogram, RankedImage, ReportContent

IN_DIST, OUT_DISTS = "fashion_mnist[test]", ("mnist[test]", "<b>odd & long_name_of_a_folder_of_pictures")
SHIFTS = {"likelihood": -1.5, "layerwise-gaussian": 0.8, "pixel-mahalanobis": 0.4}


@pytest.fixture(scope="session")
def pairs():
    rng = np.random.default_rng(0)
    result = []
    for group_size, n in ((1, 120), (5, 24)):
        scores_in = {name: rng.normal(size=n) for name in SHIFTS}
        calibration = {name: rng.normal(size=n) for name in SHIFTS}
        for out_dist in OUT_DISTS:
            scores_out = {name: rng.normal(shift, size=n) for name, shift in SHIFTS.items()}
            result.append(PairScores(IN_DIST, out_dist, group_size, scores_in, scores_out, calibration))
    return tuple(result)


@pytest.fixture(scope="session")
def records(pairs):
    return tuple(r for pair in pairs for r in evaluate_pair(pair, seed=0, replicates=200))


@pytest.fixture(scope="session")
def protocol():
    return Protocol(IN_DIST, OUT_DISTS, (120, 120), 240, 120, 120, (1, 5), 0, True, replicates=200)


def ranked_images(rng, p_values, channels):
    return tuple(
        RankedImage(rng.integers(256, size=(channels, 8, 8), dtype=np.uint8), f"img{i}.png", OUT_DISTS[i % 2], p)
        for i, p in enumerate(p_values)
    )


@pytest.fixture(scope="session")
def content(pairs, records, protocol):
    rng = np.random.default_rng(1)
    sets = {name: rng.normal(3 + i, 0.5, size=100) for i, name in enumerate((IN_DIST, *OUT_DISTS))}
    return ReportContent(
        title="Glow & <script>alert(1)</script>",
        detector="layerwise-gaussian",
        records=records,
        pairs=pairs,
        protocol=protocol,
        bits_per_dim=sets,
        layers=(LayerHistogram("levels.0.steps.1.coupling.network.conv_in.weight", 1, sets, 3.0, 0.5),),
        most_novel=ranked_images(rng, (0.0001, 0.0083, 0.02), 1),
        least_novel=ranked_images(rng, (1.0, 0.99, 0.97), 3),
        samples=rng.integers(256, size=(10, 1, 8, 8), dtype=np.uint8),
        model_card={"fingerprint": "0123456789abcdef" * 4, "bits per dimension": "3.98"},
        versions={"fisherscope": "0.1.0"},
        command="fisherscope evaluate runs/glow --in-dist fashion_mnist --out-dist mnist --report report",
    )
