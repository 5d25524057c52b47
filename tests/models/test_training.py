from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fisherscope.core.errors import CardMismatchError, DataError, ModelError, SettingError
from fisherscope.core.keys import fingerprint_keys, sample_keys
from fisherscope.data import Samples
from fisherscope.models.base import GenerativeModel, load_model, make_model
from fisherscope.models.glow import Glow
from fisherscope.models.training import Progress, TrainingSet, TrainSettings, bits_per_dim, train
from fisherscope.models.training.trainer import Trainer
from fisherscope.models.training.workers import ALONE
from fisherscope.pipeline.batches import as_batches
from fisherscope.pipeline.target import Target
from fisherscope.pipeline.training import train_on


def training_set(n: int = 60, name: str = "noise", side: int = 4) -> TrainingSet:
    rng = np.random.default_rng(0)
    smooth = 40 * rng.standard_normal((n, 1, 1, 1)) + 5 * rng.standard_normal((n, 1, side, side)) + 128
    x = smooth.clip(0, 255).astype(np.uint8)
    return TrainingSet(x, sample_keys(x), name)


def small(seed: int = 0) -> Glow:
    return Glow((1, 4, 4), steps=2, hidden=4, init_seed=seed)


def settings(**changes: object) -> TrainSettings:
    default = {"steps": 8, "batch_size": 8, "validation_fraction": 0.2, "validate_every": 4, "warmup_steps": 3}
    return TrainSettings(**(default | changes))  # type: ignore[arg-type]


def state(model: GenerativeModel) -> Mapping[str, torch.Tensor]:
    return model.state_dict()


def equal(one: GenerativeModel, other: GenerativeModel) -> bool:
    return all(torch.equal(v, state(other)[k]) for k, v in state(one).items())


TINY: dict[str, dict[str, object]] = {
    "glow": {"steps": 2, "hidden": 4},
    "vae": {"hidden": 2, "latents": 2},
    "pixelcnn": {"hidden": 4, "layers": 1},
    "diffusion": {"channels": 16, "multipliers": (1,), "diffusion_steps": 20, "timesteps": (2,)},
}


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_a_resumed_run_is_the_straight_run_to_the_bit(family: str, autocast: bool, tmp_path: Path) -> None:
    def small() -> GenerativeModel:
        return make_model(family, data_shape=(1, 8, 8), **TINY[family])

    def settings(**changes: object) -> TrainSettings:
        return globals()["settings"](autocast=autocast, **changes)

    # 8x8: from 4x4 a VAE's convolutions come down to less than one pixel, where PyTorch's bfloat16 kernels (2.13, CPUs
    # with AMX) now and then give an infinite gradient
    data = training_set(side=8)
    straight = train(small(), data, settings(), tmp_path / "straight")
    train(small(), data, settings(steps=5), tmp_path / "halves")
    other = small()
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    halves = train(other, data, settings(), tmp_path / "halves", resume=True)
    assert equal(straight, halves)
    assert straight.card.bits_per_dim == halves.card.bits_per_dim
    assert not equal(straight, train(small(), data, settings(steps=7), tmp_path / "shorter"))


def test_what_is_saved_is_the_moving_average(tmp_path: Path) -> None:
    model = make_model("vae", data_shape=(1, 4, 4), hidden=2, latents=2)
    expected, last = ([p.detach().clone() for p in model.parameters()] for _ in range(2))

    def follow(p: Progress) -> None:
        decay = min(0.4, p.step / (p.step + 10))
        for average, value, parameter in zip(expected, last, model.parameters(), strict=True):
            average.lerp_(parameter.detach(), 1 - decay)
            value.copy_(parameter.detach())

    trained = train(model, training_set(), settings(ema_decay=0.4), tmp_path / "m", report=follow)
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), expected, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(trained.parameters(), last, strict=True))


def test_gradients_are_clipped(tmp_path: Path) -> None:
    moved = []
    for clip in (1.0, 1e-14):
        model = make_model("vae", data_shape=(1, 4, 4), hidden=2, latents=2)
        before = [p.detach().clone() for p in model.parameters()]
        train(model, training_set(), settings(gradient_clip=clip), tmp_path / str(clip))
        steps = (p.detach() - q for p, q in zip(model.parameters(), before, strict=True))
        moved.append(max(float(step.abs().max()) for step in steps))
    # Adam divides a gradient by its own size, until that is far below the 1e-8 that it adds.
    assert moved[1] < 1e-3 * moved[0]


def test_a_run_depends_on_its_seed_only(tmp_path: Path) -> None:
    data = training_set()
    runs = [train(small(), data, settings(seed=s), tmp_path / f"{i}") for i, s in enumerate((0, 0, 1))]
    assert equal(runs[0], runs[1]) and not equal(runs[0], runs[2])


def test_training_lowers_bits_per_dim_and_says_so(tmp_path: Path) -> None:
    data = training_set(200)
    seen: list[Progress] = []
    model = train(small(), data, settings(steps=120, learning_rate=1e-2), tmp_path / "m", report=seen.append)
    assert [p.step for p in seen] == list(range(1, 121))
    assert seen[-1].fraction == 1.0
    early, late = (np.mean([p.bits_per_dim for p in part]) for part in (seen[:10], seen[-10:]))
    assert late < early - 0.2
    assert model.card.bits_per_dim["validation"] == pytest.approx(late, abs=0.4)
    assert bits_per_dim(model, data, batch_size=7) == pytest.approx(bits_per_dim(model, data), abs=1e-4)


def test_what_is_written(tmp_path: Path) -> None:
    data = training_set()
    model = train(small(), data, settings(), tmp_path / "m", command="fisherscope train glow")
    card = load_model(tmp_path / "m").card
    assert card == model.card
    assert (card.name, card.steps, card.command) == ("glow-noise", 8, "fisherscope train glow")
    assert card.data_fingerprint == fingerprint_keys(data.keys)
    assert np.array_equal(model.train_keys, np.sort(data.keys))
    lines = [json.loads(line) for line in (tmp_path / "m/training/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert all({"seconds", "bits_per_dim", "validation"} <= line.keys() for line in lines)
    assert lines[-1]["validation"] == card.bits_per_dim["validation"]


def test_a_run_on_perturbed_samples_is_resumed_on_those_alone(tmp_path: Path) -> None:
    data = training_set()
    perturbed = replace(data, x=data.x ^ 1)  # their keys stay those of the originals
    train(small(), perturbed, settings(steps=4), tmp_path / "m")
    with pytest.raises(CardMismatchError, match="'values' does not match"):
        train(small(), data, settings(), tmp_path / "m", resume=True)
    train(small(), perturbed, settings(), tmp_path / "m", resume=True)


def test_metrics_after_the_checkpoint_are_not_written_twice(tmp_path: Path) -> None:
    data = training_set()
    train(small(), data, settings(steps=4), tmp_path / "m")
    path = tmp_path / "m/training/metrics.jsonl"
    with path.open("a") as file:  # what a run killed after step 8, with its last checkpoint at 4, leaves behind
        file.write(json.dumps({"step": 8, "seconds": 1.0, "bits_per_dim": 9.0}) + '\n{"step": 1')
    train(small(), data, settings(), tmp_path / "m", resume=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8] and lines[1]["bits_per_dim"] != 9.0


def test_an_interrupt_leaves_a_checkpoint_that_resumes(tmp_path: Path) -> None:
    data, handler = training_set(), signal.getsignal(signal.SIGINT)

    def press(p: Progress) -> None:
        if p.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small(), data, settings(), tmp_path / "m", report=press)
    assert not (tmp_path / "m" / "model.json").exists()
    with pytest.raises(ModelError, match=r"holds a training that has not ended; .* with --resume"):
        load_model(tmp_path / "m")
    resumed = train(small(), data, settings(), tmp_path / "m", resume=True)
    assert equal(resumed, train(small(), data, settings(), tmp_path / "straight"))
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_before_the_first_step_resumes_too(tmp_path: Path) -> None:
    data = training_set()

    model = make_model("vae", data_shape=(1, 4, 4), hidden=2, latents=2)
    trainer = Trainer(model, data, settings(), tmp_path / "m", ALONE)
    trainer.initialise()
    trainer.checkpoint()
    again = make_model("vae", data_shape=(1, 4, 4), hidden=2, latents=2)
    resumed = train(again, data, settings(), tmp_path / "m", resume=True)
    straight = make_model("vae", data_shape=(1, 4, 4), hidden=2, latents=2)
    assert equal(resumed, train(straight, data, settings(), tmp_path / "straight"))


def test_divergence_is_an_error_and_spoils_no_checkpoint(tmp_path: Path) -> None:
    data = training_set()
    train(small(), data, settings(steps=2), tmp_path / "m")
    before = (tmp_path / "m/training/state.safetensors").read_bytes()
    wild = settings(steps=200, learning_rate=1e4, checkpoint_every=1e9)
    with pytest.raises(ModelError, match=r"diverged at step \d+.*lower learning rate"):
        train(small(), data, wild, tmp_path / "m", resume=True)
    assert (tmp_path / "m/training/state.safetensors").read_bytes() == before
    train(small(), data, settings(steps=3, learning_rate=1e-4), tmp_path / "m", resume=True)


def test_a_gradient_that_is_not_finite_stops_before_the_parameters_are_spoilt(tmp_path: Path) -> None:
    data, model = training_set(), small()
    parameter = next(model.parameters())
    parameter.register_hook(lambda g: g * float("inf"))
    with pytest.raises(ModelError, match="diverged at step 0"):
        train(model, data, settings(), tmp_path / "m")
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "field"), [({"seed": 3}, "settings"), ({"batch_size": 4}, "settings"), ({"ema_decay": 0.5}, "settings")]
)
def test_resuming_with_other_settings(tmp_path: Path, changes: dict[str, object], field: str) -> None:
    train(small(), training_set(), settings(steps=2), tmp_path / "m")
    with pytest.raises(CardMismatchError) as info:
        train(small(), training_set(), settings(**changes), tmp_path / "m", resume=True)
    assert info.value.field == field


def test_resuming_with_other_data_or_another_model(tmp_path: Path) -> None:
    train(small(), training_set(), settings(steps=2), tmp_path / "m")
    with pytest.raises(CardMismatchError) as info:
        train(small(), training_set(50), settings(), tmp_path / "m", resume=True)
    assert info.value.field == "data"
    with pytest.raises(CardMismatchError) as info:
        train(Glow((1, 4, 4), steps=1, hidden=4), training_set(), settings(), tmp_path / "m", resume=True)
    assert info.value.field == "config"


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nothing to resume"):
        train(small(), training_set(), settings(), tmp_path / "m", resume=True)
    train(small(), training_set(), settings(steps=1), tmp_path / "m")
    with pytest.raises(SettingError, match="already holds a model"):
        train(small(), training_set(), settings(), tmp_path / "m")
    (tmp_path / "m/training/state.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="truncated"):
        train(small(), training_set(), settings(), tmp_path / "m", resume=True)


def test_early_stop_keeps_the_best(tmp_path: Path) -> None:
    data = training_set()
    hasty = settings(steps=400, learning_rate=0.05, validate_every=2, patience=3, ema_decay=0.0)
    model = train(small(), data, hasty, tmp_path / "m")
    lines = [json.loads(line) for line in (tmp_path / "m/training/metrics.jsonl").read_text().splitlines()]
    values = [line["validation"] for line in lines if "validation" in line]
    assert model.card.steps < 400
    assert len(values) - 1 - int(np.argmin(values)) == 3
    assert model.card.bits_per_dim["validation"] == min(values)


def test_early_stop_survives_a_resume(tmp_path: Path) -> None:
    data = training_set()
    hasty = {"learning_rate": 0.05, "validate_every": 2, "patience": 3, "ema_decay": 0.0}
    straight = train(small(), data, settings(steps=400, **hasty), tmp_path / "straight")
    train(small(), data, settings(steps=straight.card.steps - 3, **hasty), tmp_path / "halves")
    halves = train(small(), data, settings(steps=400, **hasty), tmp_path / "halves", resume=True)
    assert equal(straight, halves) and straight.card.steps == halves.card.steps


def test_autocast_trains_in_bfloat16(tmp_path: Path) -> None:
    data = training_set()
    plain = train(small(), data, settings(), tmp_path / "plain")
    cast = train(small(), data, settings(autocast=True), tmp_path / "cast")
    assert not equal(plain, cast) and next(cast.parameters()).dtype == torch.float32
    assert bits_per_dim(cast, data) == pytest.approx(bits_per_dim(plain, data), abs=0.1)


def test_channels_last_changes_the_layout_only(tmp_path: Path) -> None:
    data = training_set()
    plain = train(small(), data, settings(), tmp_path / "plain")
    last = train(small(), data, settings(channels_last=True), tmp_path / "last")
    assert all(p.is_contiguous() for p in last.parameters() if p.ndim == 4)
    assert bits_per_dim(last, data) == pytest.approx(bits_per_dim(plain, data), abs=0.01)
    train(small(), data, settings(steps=4, channels_last=True), tmp_path / "halves")
    assert equal(last, train(small(), data, settings(channels_last=True), tmp_path / "halves", resume=True))


def test_channels_last_is_for_images(tmp_path: Path) -> None:
    rows = TrainingSet(np.zeros((64, 5), np.float32), np.arange(64, dtype=np.uint64), "rows")
    with pytest.raises(SettingError, match=r"rows has samples of shape \(5,\)"):
        train(small(), rows, settings(channels_last=True), tmp_path / "m")


def test_a_budget_of_minutes_counts_over_all_runs(tmp_path: Path) -> None:
    model = train(small(), training_set(), settings(steps=None, minutes=0.01), tmp_path / "m")
    steps = model.card.steps
    assert steps >= 1
    again = train(small(), training_set(), settings(steps=None, minutes=0.01), tmp_path / "m", resume=True)
    assert again.card.steps == steps


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": None},
        {"minutes": 1.0},
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"ema_decay": 1.0},
        {"validation_fraction": 0.0},
        {"seed": -1},
        {"validate_every": 0},
        {"warmup_steps": -1},
        {"patience": 0},
    ],
)
def test_bad_settings(changes: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        settings(**changes)


def test_too_few_samples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than one batch of 8"):
        train(small(), training_set(9), settings(), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_model_knows_the_columns_of_its_table(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 2))
    samples = replace(Samples.from_array(rows, [f"{i}" for i in range(60)], "rows"), columns=("a", "b"))
    model = train_on("tabular", samples, settings(steps=4), tmp_path / "m", config={"hidden": (8,), "transforms": 1})
    target = Target(load_model(tmp_path / "m"), None, "m")
    assert list(model.card.columns or ()) == list(as_batches(samples, target).columns or ()) == ["a", "b"]
    with pytest.raises(DataError, match="has the columns b, a, the model was trained on a, b"):
        as_batches(replace(samples, columns=("b", "a")), target)
