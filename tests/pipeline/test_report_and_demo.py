"""The page of an evaluation, and the demo that ends in one."""

from dataclasses import replace

import pytest

from fisherscope.core.errors import ModelError
from fisherscope.models.files import STATE
from fisherscope.pipeline import demo
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.evaluation import EvaluationSettings, evaluate
from fisherscope.pipeline.report import report_content


def test_a_model_that_cannot_draw_samples_has_a_page_without(target, digits, monkeypatch):
    def fail(*_args, **_settings):
        raise ModelError("its samples overflow")

    sets = [as_batches(digits.select(range(100)), target)]
    sets.append(replace(as_batches(digits.select(range(100, 120)), target), name="other"))
    evaluation = evaluate(target, sets[0], sets[1:], EvaluationSettings(("likelihood",), replicates=40))
    assert report_content(evaluation, target, sets, "command").samples.shape == (64, 1, 8, 8)
    monkeypatch.setattr(type(target.module), "sample", fail)
    assert report_content(evaluation, target, sets, "command").samples is None


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupted_demo_goes_on(tmp_path, monkeypatch, begun):
    class TrainedError(Exception):
        pass

    def train_on(*_args, resume, **_settings):
        assert resume is begun
        raise TrainedError

    if begun:
        (tmp_path / "model" / STATE).parent.mkdir(parents=True)
        (tmp_path / "model" / STATE).touch()
    monkeypatch.setattr(demo, "train_on", train_on)
    with pytest.raises(TrainedError):
        demo.run_demo(tmp_path)
