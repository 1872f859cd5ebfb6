"""Processes of one launch go on from the same files, though one of them sees these late, or never."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from toy_training import Toy
from training_processes import Launch

from experiments.errors import ConfigError
from experiments.model import TaskModel, save_weights
from experiments.processes import ALONE, Processes
from experiments.training import arrival
from experiments.training.arrival import read_together

Weights = Mapping[str, torch.Tensor]


class Crash(Exception):
    pass


def rank() -> int:
    return int(os.environ["RANK"])


def comes_while_waiting(path: Path, place: Path) -> None:
    """What is not there at the first look is there at the next."""

    def sleep(_: float) -> None:
        os.rename(path, place)

    arrival.time = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)  # type: ignore[attr-defined]


def go_on(folder: Path) -> tuple[list[tuple[int, float]], Weights]:
    """Each process sees a folder of its own, as machines of a network file system may for a while."""
    toy = Toy(folder, "gqa")
    own = folder / str(rank())
    if rank() == 1:
        comes_while_waiting(folder / "on its way", own / "step-00000004")
    model, record = toy.train(own.name)
    return record["losses"], {name: value.numpy() for name, value in model.state_dict().items()}


def test_a_process_waits_for_the_checkpoint_that_the_first_one_goes_on_from(tmp_path: Path) -> None:
    toy, seen = Toy(tmp_path, "gqa"), []

    def crashing(_: TaskModel) -> dict[str, float]:
        seen.append(None)
        if len(seen) == 3:
            raise Crash
        return {"gqa": 0.5}

    with pytest.raises(Crash):
        toy.train("0", validate=crashing)
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    os.rename(tmp_path / "1" / "step-00000004", tmp_path / "on its way")
    (losses, first), (again, second) = Launch(go_on, tmp_path).results()
    _, calm = toy.train("calm")
    assert losses == again and [loss for _, loss in losses] == pytest.approx([loss for _, loss in calm["losses"]])
    assert all((first[name] == second[name]).all() for name in first)


def load(folder: Path) -> Weights:
    toy = Toy(folder, "gqa")
    if rank() == 1:
        comes_while_waiting(folder / "on its way", folder / "runs-1")
    model = toy.workshop(runs=f"runs-{rank()}").model_of(toy.job(), toy.bank)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_a_process_waits_for_the_finished_model_that_the_first_one_loads(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "gqa")
    model = toy.model(toy.config())
    torch.nn.init.constant_(model.fusion.operator.trunk.blocks[0].qkv.weight, 0.25)
    save_weights(model, toy.workshop(runs="runs-0").config.folder / "train" / toy.job().stem, {})
    shutil.copytree(tmp_path / "runs-0", tmp_path / "on its way")
    expected = model.state_dict()
    for found in Launch(load, tmp_path).results():
        assert all((value.numpy() == found[name]).all() for name, value in expected.items())


def look(folder: Path) -> Any:
    processes = Processes.of(Accelerator(cpu=True))

    def read(name: str) -> str | None:
        return name if rank() == 0 else None

    assert read_together(lambda: None, read, folder=folder, processes=processes) is None
    return read_together(lambda: "step-00000004", read, folder=folder, processes=processes, seconds=0.1)


def test_all_processes_stop_where_one_never_sees_the_file(tmp_path: Path) -> None:
    for error in Launch(look, tmp_path).results():
        assert isinstance(error, ConfigError)
        said = str(error)
        assert said.startswith(f"{tmp_path}: process 0 on ") and "finds step-00000004 there, process 1 on" in said
        assert "cannot read it within 0.1 s" in said and "--runs" in said


def test_one_process_reads_what_it_finds(tmp_path: Path) -> None:
    assert read_together(lambda: "a", str.upper, folder=tmp_path, processes=ALONE) == "A"
    assert read_together(lambda: None, str.upper, folder=tmp_path, processes=ALONE) is None
