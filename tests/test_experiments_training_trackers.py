"""What trackers are told: tensorboard's files on disk, and Weights & Biases by a stand-in for its package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_training import Toy

from experiments.training.launch import start_trackers, tracker_names


def test_tensorboard_is_there_and_the_default() -> None:
    assert tracker_names(None) == ("tensorboard",)


def test_losses_and_validations_are_in_tensorboard_files(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "gqa", trackers=None)
    _, record = toy.train("one")
    found = EventAccumulator(str(tmp_path / "runs" / "toy" / "train" / "trackers" / "toy-toy-masked-0")).Reload()
    events = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert [step for step, _ in events["train/loss"]] == [3, 6, 8]
    assert [value for _, value in events["train/loss"]] == pytest.approx([loss for _, loss in record["losses"]])
    assert events["select/gqa"] == [(step, 0.5) for step in (2, 4, 6, 8)]
    assert [step for step, _ in events["train/waiting"]] == [3, 6, 8]
    assert [value for _, value in events["train/lr"]] == pytest.approx([1e-2 * 6 / 7, 1e-2 * 3 / 7, 1e-2 / 7])


def test_models_are_runs_of_one_project(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []
    settings: dict[str, Any] = {}

    def init(**named: Any) -> SimpleNamespace:
        started.append(named)
        return SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: None)

    config = SimpleNamespace(update=lambda values, **_: settings.update(values))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, config=config))
    accelerator = Accelerator(cpu=True)
    accelerator.log_with = ["wandb"]
    for model in ("first-gqa-masked-0", "first-vqa-masked-0"):
        start_trackers(accelerator, {"lr": 0.1}, project="first", model=model)
        accelerator.log({"train/loss": 2.0}, step=3)
        accelerator.trackers.clear()
    names = ("first-gqa-masked-0", "first-vqa-masked-0")
    assert started == [{"project": "first", "name": name} for name in names]
    assert settings == {"lr": 0.1} and logged == [({"train/loss": 2.0}, 3)] * 2
