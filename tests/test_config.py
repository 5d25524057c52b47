"""The schema of experiment files, and the files that the repository holds."""

from dataclasses import fields
from pathlib import Path

import pytest

from fisherscope.config import TrainingTable, read_experiment_config, read_train_config
from fisherscope.core.errors import SettingError
from fisherscope.models.base import family_class, make_model
from fisherscope.models.training import TrainSettings
from fisherscope.pipeline.training import train_settings

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments" / "train").glob("*.toml"))
SHAPES = {"fashion_mnist": (1, 28, 28), "mnist": (1, 28, 28), "text/tiny_shakespeare.txt": (128,)}


def test_the_table_has_the_fields_of_the_settings():
    assert list(TrainingTable.model_fields) == [f.name for f in fields(TrainSettings)]


def test_a_file_becomes_settings(tmp_path):
    path = tmp_path / "glow.toml"
    path.write_text(
        'family = "glow"\ndata = "digits"\nresize = [1, 8, 8]\n'
        "[model]\nsteps = 2\n[training]\nminutes = 1.5\nseed = 3\n"
    )
    config = read_train_config(path)
    assert (config.family, config.resize, config.model, config.storage) == ("glow", (1, 8, 8), {"steps": 2}, "float32")
    assert train_settings(config.training) == TrainSettings(minutes=1.5, seed=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("family = 'glow'", "data: Field required"),
        ("family = 'glow'\ndata = 'digits'\nstep = 3", "step: Extra inputs are not permitted"),
        ("family = 'glow'\ndata = 'digits'\n[training]\nsteps = 'many'", r"training\.steps: Input should be"),
        ("family = 'glow'\ndata = 'digits'\nstorage = 'int8'", "storage: Input should be 'float32' or 'float16'"),
        ("family =", "not readable TOML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=message) as info:
        read_train_config(path)
    assert "\n" not in str(info.value)
    with pytest.raises(SettingError, match="does not exist"):
        read_train_config(tmp_path / "absent.toml")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_makes_a_small_model(path):
    config = read_train_config(path)
    train_settings(config.training)
    family_class(config.family)
    model = make_model(config.family, data_shape=SHAPES.get(config.data, (3, 32, 32)), **config.model)
    assert path.stem.startswith(f"{config.family}-{Path(config.data).stem}")
    count = sum(p.numel() for p in model.parameters())
    # The zoo's take up to 2.3 MiB in float16.
    low, high = (4e7, 5e7) if path.stem.endswith("-paper") else (1e5, 1.2e6)
    assert low < count < high


EXPERIMENT = 'runner = "auroc-grid"\nmakes = "Something."\nminutes = 1\n'


def test_an_experiment_of_sets_and_models(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(
        EXPERIMENT + '[[grids]]\nname = "grey"\nfamilies = ["vae"]\nin_dist = ["a", "b"]\nout_dist = ["b", "c"]\n'
    )
    config = read_experiment_config(path)
    assert config.grids[0].sets == ("a", "b", "c") and config.group_sizes == (1,) and config.limit == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('runner = "auroc-grid"\nminutes = 1', "makes: Field required"),
        (EXPERIMENT + "minute = 2", "minute: Extra inputs are not permitted"),
        (EXPERIMENT + "limit = 0", "limit: Input should be greater than or equal to 1"),
        (EXPERIMENT + '[[grids]]\nname = "a b"\nin_dist = ["c"]', r"grids\.0\.name: String should match"),
        (EXPERIMENT + '[[grids]]\nname = "a"\nin_dist = []', r"grids\.0\.in_dist: Tuple should have at least 1 item"),
    ],
)
def test_a_mistake_in_an_experiment_names_the_field(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=message):
        read_experiment_config(path)
