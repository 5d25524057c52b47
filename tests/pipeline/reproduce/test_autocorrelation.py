"""Correlations of layers on a tiny model, against norms by hand."""

import numpy as np
import pytest
from by_hand import log_norms, parts_of

from fisherscope.models.base import load_model
from fisherscope.pipeline.reproduce.autocorrelation import correlation_curve


def test_the_numbers(tiny, models):
    written = tiny("figure-autocorrelation", {"families": ("vae",), "in_dist": ("digits", "faces")})
    (found,) = written["results"]["models"]
    model = load_model(models / "vae-digits")
    digits, fit, test = parts_of("digits", 40)
    names = [name for name, _ in model.named_parameters()]
    correlations = np.corrcoef(log_norms(model, digits, np.concatenate([fit, test])).T)
    assert found["layers"] == len(names) and found["groups"] == 60
    assert found["standard_error"] == pytest.approx(59**-0.5)
    curve = found["curve"]
    assert curve["distance"] == list(range(1, len(names)))
    for d, pairs, mean, low, high in zip(*curve.values(), strict=True):
        diagonal = np.diagonal(correlations, d)
        assert pairs == len(diagonal)
        assert [mean, low, high] == pytest.approx([diagonal.mean(), *np.quantile(diagonal, [0.1, 0.9])], abs=1e-3)
    off_diagonal = correlations[~np.eye(len(names), dtype=bool)]
    assert found["mean"] == pytest.approx(off_diagonal.mean(), abs=1e-3)
    assert found["mean_absolute"] == pytest.approx(np.abs(off_diagonal).mean(), abs=1e-3)


def test_distances_count_the_layers_that_were_dropped():
    curve = correlation_curve(np.array([[1, 0.2, 0.4], [0.2, 1, 0.6], [0.4, 0.6, 1]]), np.array([0, 1, 4]))
    assert curve.distance.tolist() == [1, 3, 4] and curve.pairs.tolist() == [1, 1, 1]
    assert curve.mean.tolist() == [0.2, 0.6, 0.4]
