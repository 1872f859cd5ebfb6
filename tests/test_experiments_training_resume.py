"""Checkpoints and exact resume, within one process: stopped anywhere, a run ends bit for bit as one left alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import Toy, same_weights

from experiments.model import TaskModel
from experiments.training.checkpoint import Checkpoint, Checkpoints
from experiments.training.progress import Progress

EVERYTHING: dict[str, Any] = {
    "ema": 0.9,
    "keep": "best",
    "accumulate": 2,
    "batch_size": 12,
    "fill": "mean",
    "ve_dropout": {"vit": 0.5, "clip": 0.3},
    "ve_warmup": 0.5,
    "freeze": ("text", "trunk[:1]"),
    "schedule": "cosine",
}


class Crash(Exception):
    pass


def fingerprint(model: TaskModel) -> dict[str, float]:
    """A score that tells any two models apart."""
    return {"gqa": sum(p.detach().double().abs().sum().item() for p in model.parameters())}


def crashing(at: int) -> Callable[[TaskModel], Mapping[str, float]]:
    """Fails at the validation of that number."""
    seen = []

    def validate(model: TaskModel) -> dict[str, float]:
        seen.append(None)
        if len(seen) == at:
            raise Crash
        return fingerprint(model)

    return validate


def without_time(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("seconds", "step_ms", "waiting")}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"), "gqa", "flickr30k", dropout=0.1)


@pytest.fixture(scope="module")
def calm(toy: Toy) -> tuple[TaskModel, dict[str, Any]]:
    return toy.train("calm", validate=fingerprint, **EVERYTHING)


def test_a_crashed_run_ends_as_the_one_left_alone(toy: Toy, calm: tuple[TaskModel, dict[str, Any]]) -> None:
    model, record = calm
    assert [step for step, _ in record["losses"]] == [3, 6, 8] and len(record["select"]) == 4
    for crash in (2, 3):
        with pytest.raises(Crash):
            toy.train("crashed", validate=crashing(crash), **EVERYTHING)
        torch.rand(crash)  # whatever else the process has drawn
    again, found = toy.train("crashed", validate=fingerprint, **EVERYTHING)
    assert without_time(found) == without_time(record)
    assert same_weights(again, model)
    other, _ = toy.train("other", validate=fingerprint, **{**EVERYTHING, "lr": 0.011})
    assert not same_weights(other, model)


def saved(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in steps:
        state = {"optimizer": {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"lr": 0.1}]}}
        checkpoints.save(Checkpoint(Progress(step=step), {"model": {"weight": torch.tensor([float(step)])}}, state))
    return checkpoints


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, file: str, damage: str) -> None:
    checkpoints = saved(tmp_path, 2, 4)
    torn = tmp_path / "step-00000004" / file
    held = bytearray(torn.read_bytes())
    held[len(held) // 2] ^= 0xFF
    if damage == "gone":
        torn.unlink()
    else:
        torn.write_bytes(held[: len(held) // 2] if damage == "cut" else held)
    with pytest.warns(UserWarning, match="step-00000004 is torn"):
        name = checkpoints.newest()
    assert name == "step-00000002" and checkpoints.load("step-00000004") is None
    found = checkpoints.load(name)
    assert found is not None and found.progress.step == 2
    assert found.weights["model"]["weight"].tolist() == [2.0]
    assert found.state["optimizer"]["state"][0]["step"].item() == 2.0


def test_a_run_goes_on_from_the_checkpoint_before_a_torn_one(
    toy: Toy, calm: tuple[TaskModel, dict[str, Any]]
) -> None:
    with pytest.raises(Crash):
        toy.train("torn", validate=crashing(4), **EVERYTHING)
    (toy.folder / "torn" / "step-00000006" / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="step-00000006 is torn"):
        again, found = toy.train("torn", validate=fingerprint, **EVERYTHING)
    assert without_time(found) == without_time(calm[1]) and same_weights(again, calm[0])


def test_the_last_two_are_kept_and_unfinished_ones_are_not_seen(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "run").newest() is None
    checkpoints = saved(tmp_path / "run", 1, 2, 3)
    (tmp_path / "run" / "step-00000004.unfinished").mkdir()
    assert {path.name for path in (tmp_path / "run").glob("step-????????")} == {"step-00000002", "step-00000003"}
    assert checkpoints.newest() == "step-00000003"
    found = checkpoints.load("step-00000003")
    assert found is not None and found.progress.step == 3 and found.weights["model"]["weight"].tolist() == [3.0]
    checkpoints.clear()
    assert not (tmp_path / "run").exists()


def test_progress_round_trips() -> None:
    progress = Progress(3, 0.1, [(1, 0.30000000000000004)], [(2, {"gqa": 1 / 3})], 2, 1 / 3, 1, 2.5)
    assert Progress.from_dict(progress.to_dict()) == progress


def scaled(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What accelerate does for fp16 on a GPU, on a CPU: half precision, with a scale that doubles every other step."""
    made = partial(torch.amp.GradScaler, init_scale=4.0, growth_interval=2)
    monkeypatch.setattr(torch.amp, "GradScaler", made)
    monkeypatch.setattr(toy.accelerator, "scaler", made("cpu"))
    monkeypatch.setattr(toy.accelerator, "native_amp", True)
    monkeypatch.setitem(toy.accelerator.state.__dict__, "_mixed_precision", "fp16")


def test_the_scale_of_the_loss_is_part_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(tmp_path, "gqa")
    exact, _ = toy.train("exact")
    scaled(toy, monkeypatch)
    calm, record = toy.train("calm", validate=fingerprint)
    assert toy.accelerator.scaler.get_scale() == 4.0 * 2**4  # after 8 steps
    assert not same_weights(calm, exact)
    with pytest.raises(Crash):
        toy.train("crashed", validate=crashing(3))
    saved = Checkpoints(tmp_path / "crashed").load("step-00000004")
    assert saved is not None and saved.state["scaler"]["scale"] == 4.0 * 2**2
    again, found = toy.train("crashed", validate=fingerprint)
    assert toy.accelerator.scaler.get_scale() == 4.0 * 2**4
    assert same_weights(again, calm) and without_time(found) == without_time(record)


def test_a_request_to_stop_waits_for_the_step(toy: Toy, calm: tuple[TaskModel, dict[str, Any]]) -> None:
    def asked(model: TaskModel) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        return fingerprint(model)

    before = signal.getsignal(signal.SIGTERM)
    settings = {**EVERYTHING, "checkpoint_steps": None}
    with pytest.raises(SystemExit, match="143"):
        toy.train("asked", validate=asked, **settings)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (toy.folder / "asked").iterdir()] == ["step-00000002"]
    again, found = toy.train("asked", validate=fingerprint, **settings)
    assert without_time(found) == without_time(calm[1]) and same_weights(again, calm[0])


@pytest.mark.parametrize(("patience", "validations"), [(1, 2), (None, 4)], ids=["early", "last step"])
def test_a_request_to_stop_at_the_end_loses_and_adds_nothing(
    toy: Toy, patience: int | None, validations: int
) -> None:
    """A run that had ended early would go on where a later validation is better, as these are."""

    def validation(scores: list[float], *, stops: bool) -> Callable[[TaskModel], dict[str, float]]:
        def validate(_: TaskModel) -> dict[str, float]:
            if stops and len(scores) == 5 - validations:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
            return {"gqa": scores.pop(0)}

        return validate

    settings = {**EVERYTHING, "patience": patience}
    calm, expected = toy.train(f"calm {patience}", validate=validation([0.5, 0.4, 0.8, 0.9], stops=False), **settings)
    scores = [0.5, 0.4, 0.8, 0.9]
    with pytest.raises(SystemExit, match="143"):
        toy.train(f"asked {patience}", validate=validation(scores, stops=True), **settings)
    again, found = toy.train(f"asked {patience}", validate=validation(scores, stops=False), **settings)
    assert len(scores) == 4 - validations
    assert without_time(found) == without_time(expected) and same_weights(again, calm)
