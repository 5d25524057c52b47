"""Sets of the paper that an experiment fetches from the hub, when asked to."""

from dataclasses import replace

import numpy as np
import pytest

from fisherscope.data import Samples
from fisherscope.data import load as loading
from fisherscope.pipeline.reproduce.context import Context
from fisherscope.pipeline.reproduce.experiments import read_experiment


@pytest.fixture
def asked(monkeypatch):
    """Put a hub of grey pictures in the place of the real one; return what was asked of it."""
    asked = []

    def read_hub(hub_name, split, name, options):
        asked.append((hub_name, split))
        x = np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8)).astype(np.uint8)
        return Samples.from_array(x, [f"{name}#{i}" for i in range(9)], name)

    monkeypatch.setattr(loading, "read_hub", read_hub)
    return asked


@pytest.fixture
def context(settings):
    def make(hub):
        experiment = read_experiment("figure-datasets")
        grid = experiment.grids[0].model_copy(update={"in_dist": ("svhn", "imagenet32", "missing", "digits")})
        changed = experiment.model_copy(update={"grids": (grid,), "limit": 9})
        return Context(changed, replace(settings, hub=hub))

    return make


def test_they_are_fetched_under_the_names_of_the_experiment(context, asked):
    made = context(hub=True)
    assert made.sets == {"colour": ("svhn", "imagenet32", "digits")}
    named = [made.samples(name, split=split).name for name in ("svhn", "imagenet32") for split in ("train", "test")]
    assert named == ["svhn[train]", "svhn[test]", "imagenet32[train]", "imagenet32[test]"]
    assert asked == [
        ("ufldl-stanford/svhn", "train"),
        ("ufldl-stanford/svhn", "test"),
        ("benjamin-paine/imagenet-1k-32x32", "train"),
        ("benjamin-paine/imagenet-1k-32x32", "validation"),
    ]
    assert made.ledger.samples["svhn[test], ufldl-stanford/svhn of the hub"] == 9
    assert made.samples("digits").name == "digits[test]" and made.ledger.samples["digits[test]"] == 9
    assert made.ledger.skipped == {"set missing": "not in the data root and not bundled"}


def test_nothing_is_fetched_unasked(context, asked):
    made = context(hub=False)
    assert made.sets == {"colour": ("digits",)} and not asked
    assert made.ledger.skipped["set svhn"] == "not in the data root and not bundled; --hub fetches it"


def test_a_set_of_the_data_root_is_not_fetched(context, asked, tmp_path, monkeypatch):
    made = context(hub=True)
    made.settings = replace(made.settings, data_root=tmp_path)
    (tmp_path / "svhn").mkdir()
    monkeypatch.setattr("fisherscope.data.load.list_sets", lambda root: ["svhn"] if root == tmp_path else [])
    assert made.has_set("svhn") and not made.on_hub("svhn") and made.on_hub("imagenet32")
