"""The table of controls on a tiny model, against a calculation by hand."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from fisherscope.core.errors import ModelError
from fisherscope.data import load_samples
from fisherscope.data.controls import blurred, constant_images, jpeg_coded, resampled, white_noise
from fisherscope.evaluation import PairScores, resample_pair, split_in_dist
from fisherscope.models.base import load_model
from fisherscope.models.glow import Glow
from fisherscope.pipeline.reproduce import sanity
from fisherscope.pipeline.reproduce.case import Case


def test_the_controls_of_images():
    x = load_samples("chelsea-rgb", limit=3).x
    for image, copy in zip(x, jpeg_coded(x, quality=60), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, format="JPEG", quality=60)
        np.testing.assert_array_equal(copy.transpose(1, 2, 0), np.asarray(Image.open(buffer)))
    step = np.zeros((1, 1, 16, 16), np.uint8)
    step[..., 8:] = 200
    for change in (blurred, resampled):
        soft = change(step)[0, 0, 8].astype(int)
        assert soft[0] == 0 and soft[-1] == 200 and (np.diff(soft) >= 0).all() and 0 < soft[7] < soft[8] < 200
    noise, constant = white_noise(50, (3, 8, 8), 0), constant_images(50, (3, 8, 8), 0)
    assert abs(noise.mean() - 127.5) < 5 and noise.min() == 0 and noise.max() == 255
    assert (constant == constant[:, :, :1, :1]).all() and len(np.unique(constant[:, 0, 0, 0])) > 30


def test_the_numbers(tiny, models):
    grid = {"families": ("glow",), "in_dist": ("digits",), "out_dist": ("faces",)}
    detectors = ("likelihood", "total-norm")
    written = tiny("table-sanity", grid, detectors=detectors, group_sizes=(1,), options={"jpeg_quality": 40})
    model = load_model(models / "glow-digits")
    in_dist = load_samples("digits", limit=80)
    test = in_dist.select(split_in_dist(80, 1, 0).test)
    surprise = [-log_p(model, x, test.keys) for x in (test.x, jpeg_coded(test.x, 40))]
    expected = roc_auc_score(np.repeat([0, 1], 20), np.concatenate(surprise))
    found = {
        (r["control"], r["detector"]): (r["auroc"], r["kind"], r["n_in"], r["n_out"])
        for r in written["results"]["records"]
    }
    assert found["JPEG, quality 40", "likelihood"] == (pytest.approx(expected), "copy", 20, 20)
    own = model_samples_by_seed(model)
    half = split_in_dist(80, 1, 0).test
    surprise = [-log_p(model, x, keys) for x, keys in ((own.x[half], own.keys[half]), (test.x, test.keys))]
    expected = roc_auc_score(np.repeat([0, 1], 20), np.concatenate(surprise))
    assert found["test set, against samples of the model", "likelihood"][:2] == (pytest.approx(expected), "own samples")
    copies = [v[0] for (_, d), v in found.items() if d == "total-norm" and v[1] == "copy"]
    mean = next(m for m in written["results"]["means"] if m["detector"] == "total-norm")
    assert len(copies) == 3 and mean["auroc"]["copy"] == pytest.approx(np.mean(copies))
    assert mean["moved_by_copies"] == pytest.approx(np.mean([abs(c - 0.5) for c in copies]))
    assert mean["auroc"]["another set"] == pytest.approx(found["faces", "total-norm"][0])


def model_samples_by_seed(model):
    """The samples that the experiment drew, drawn again chunk by chunk."""
    from fisherscope.data import Samples

    x = np.concatenate([model.sample(32, seed=chunk << 32).numpy() for chunk in range(3)])[:80]
    return Samples.from_array(x, [str(i) for i in range(80)], "own")


def log_p(model, x, keys):
    return model.log_prob(torch.from_numpy(x).float(), keys=keys).detach().double().numpy()


def test_a_model_that_cannot_be_sampled_from_has_its_other_controls(tiny, monkeypatch):
    def fail(*arguments, **settings):
        raise ModelError("sampling overflows")

    monkeypatch.setattr(Glow, "sample", fail)
    grid = {"families": ("glow",), "in_dist": ("digits",), "out_dist": ("faces",)}
    written = tiny("table-sanity", grid, detectors=("likelihood",), group_sizes=(1,))
    assert written["skipped"]["samples of glow-digits"] == "sampling overflows"
    assert {r["kind"] for r in written["results"]["records"]} == {"copy", "no content", "another set"}


def row(kind, detector):
    scores = {detector: np.arange(4.0)}
    scores = PairScores("a", "b", 1, scores_in=scores, scores_out=scores, scores_calibration={})
    return sanity.Row(Case("colour", "glow", "a", ()), kind, "control", resample_pair(scores, seed=0, replicates=40))


def test_a_detector_that_scored_no_copies_has_no_mean_of_them():
    means = list(sanity._means([row("own samples", "likelihood"), row("copy", "total-norm")]))
    assert {m["detector"]: m["moved_by_copies"] for m in means} == {"likelihood": None, "total-norm": 0.0}
    assert "likelihood" not in sanity._note(means)
