"""Two processes that train one model: accumulation, bf16, clipping, and a kill from which they go on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from toy_training import Toy
from training_processes import Launch

from experiments.model import TaskModel

Weights = Mapping[str, np.ndarray]
TASKS = ("gqa", "flickr30k")
PARTS: dict[str, Any] = {"accumulate": 2, "batch_size": 20, "log_steps": 1, "lr": 1e-3, "checkpoint_steps": None}
STATEFUL: dict[str, Any] = {"ema": 0.9, "keep": "best", "batch_size": 12, "log_steps": 1, "lr": 1e-3}


def losses_of(record: Mapping[str, Any]) -> list[float]:
    return [loss for _, loss in record["losses"]]


def weights_of(model: TaskModel) -> Weights:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def trained(folder: Path, name: str, settings: Mapping[str, Any]) -> tuple[list[float], list[float], Weights]:
    """Losses, gradient norms as the optimizer sees them, and weights."""
    toy, norms = Toy(folder, *TASKS, precision=settings.get("precision", "no")), []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())

    hook = register_optimizer_step_pre_hook(note)
    model, record = toy.train(name, **settings)
    hook.remove()
    return losses_of(record), norms, weights_of(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("together")
    Toy(made, *TASKS)  # its stores are there before two processes look for them
    return made


def test_accumulated_parts_of_two_processes_make_the_step_of_one(folder: Path) -> None:
    """Groups of 10 in parts of 5, of which one process has 3; contrast and hard negatives are over whole parts."""
    ((alone, norms, _),) = Launch(trained, folder, "one", PARTS, count=1).results()
    (losses, first, weights), (again, second, others) = Launch(trained, folder, "two", PARTS).results()
    assert len(alone) == 8 and losses == again
    assert losses == pytest.approx(alone, rel=1e-5)
    assert first == pytest.approx(norms, rel=1e-4) and second == pytest.approx(first, rel=1e-6)
    assert all((weights[name] == others[name]).all() for name in weights)


def test_two_processes_train_in_bf16(folder: Path) -> None:
    settings = {**PARTS, "precision": "bf16"}
    ((exact, _, _),) = Launch(trained, folder, "one in float32", PARTS, count=1).results()
    ((alone, _, _),) = Launch(trained, folder, "one in bf16", settings, count=1).results()
    (losses, _, _), (again, _, _) = Launch(trained, folder, "two in bf16", settings).results()
    assert losses == again == pytest.approx(alone, rel=0.03)
    assert losses != pytest.approx(exact, rel=1e-4)


def test_a_gradient_beyond_the_limit_is_cut_to_it(folder: Path) -> None:
    free, cut, loose = (
        Launch(trained, folder, f"limit {limit}", {**PARTS, "steps": 3, "clip_norm": limit}).results()
        for limit in (None, 0.01, 100.0)
    )
    for (_, whole, _), (_, short, _), (_, same, _) in zip(free, cut, loose, strict=True):
        assert min(whole) > 0.02 and max(whole) < 100 and whole == same
        assert short == pytest.approx([0.01] * 3, rel=1e-3)


def going_on(folder: Path, name: str, stops: bool) -> tuple[list[float], list[float], Weights]:
    """With an average and the best model kept; if it is to stop, it is busy with the third validation for good."""
    toy, seen = Toy(folder, *TASKS, dropout=0.1), []

    def validate(model: TaskModel) -> dict[str, float]:
        seen.append(None)
        if stops and len(seen) == 3:
            (folder / f"{name} is busy {os.environ['RANK']}").touch()
            time.sleep(600)
        return {"gqa": -sum(p.detach().double().abs().sum().item() for p in model.parameters())}  # the first is best

    model, record = toy.train(name, validate=validate, **STATEFUL)
    return losses_of(record), [score["gqa"] for _, score in record["select"]], weights_of(model)


def test_two_killed_processes_end_as_those_left_alone(folder: Path) -> None:
    killed = Launch(going_on, folder, "killed", True)
    until = time.monotonic() + 120
    while not all((folder / f"killed is busy {rank}").exists() for rank in (0, 1)) and time.monotonic() < until:
        time.sleep(0.05)
    killed.kill()
    assert {path.name for path in (folder / "killed").iterdir()} == {"step-00000002", "step-00000004"}
    resumed = Launch(going_on, folder, "killed", False).results()
    calm = Launch(going_on, folder, "calm", False).results()
    for (losses, select, weights), (expected, scores, undisturbed) in zip(resumed, calm, strict=True):
        assert losses == pytest.approx(expected, rel=1e-6) and len(losses) == 8
        assert select == pytest.approx(scores, rel=1e-6) and len(select) == 4
        for name, value in undisturbed.items():
            np.testing.assert_allclose(weights[name], value, rtol=1e-4, atol=1e-6)
