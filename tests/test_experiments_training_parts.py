"""The training loop's parts: learning rates, sampling, convergence; and the real command on two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from experiments.config import check, demo, override
from experiments.errors import ConfigError
from experiments.model import TaskModel
from experiments.training.optimizer import module_of, parameter_groups
from experiments.training.progress import has_converged
from experiments.training.sampler import Sampler
from experiments.training.schedule import learning_rate
from experiments.training.settings import MODULES, TrainConfig
from fusion.config import FusionConfig
from fusion.model import FusionModel
from tasks.base import Example
from tasks.objectives import ClassificationObjective

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model() -> TaskModel:
    fusion = FusionModel(FusionConfig(width=8, layers=1, heads=2, text="scratch"), {"vit": 5, "clip": 3})
    return TaskModel(fusion, {"gqa": ClassificationObjective(task="gqa", width=8, labels=["yes", "no"])})


def test_every_parameter_has_a_module_and_its_rate(model: TaskModel) -> None:
    assert {module_of(name) for name, _ in model.named_parameters()} == set(MODULES)
    settings = TrainConfig(lr=1e-3, lr_scale={"adapters": 10.0, "trunk": 0.5}, weight_decay=0.1)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, settings) for p in g["params"]}
    assert len(rates) == len(list(model.parameters()))
    named = dict(model.named_parameters())
    assert rates[id(named["fusion.adapters.of_vit.project.weight"])] == (pytest.approx(1e-2), 0.1)
    assert rates[id(named["fusion.adapters.of_vit.project.bias"])] == (pytest.approx(1e-2), 0.0)
    assert rates[id(named["fusion.positions.project.weight"])] == (pytest.approx(1e-2), 0.1)
    assert rates[id(named["fusion.operator.trunk.blocks.0.qkv.weight"])] == (pytest.approx(5e-4), 0.1)
    assert rates[id(named["fusion.text.words.weight"])] == (pytest.approx(1e-3), 0.1)
    assert rates[id(named["objectives.gqa.head.output.weight"])] == (pytest.approx(1e-3), 0.1)


def test_frozen_parameters_are_left_out(model: TaskModel) -> None:
    groups = parameter_groups(nn.ModuleDict({"objectives": nn.Linear(2, 2).requires_grad_(False)}), TrainConfig())
    assert groups == []


def test_the_rate_rises_and_falls_in_straight_lines() -> None:
    # 10 steps, 20 % warm-up: up over 2 steps, then from 1 at step 2 down to 0 at step 10.
    assert [learning_rate(step, 10, 0.2) for step in (0, 1, 2, 6, 10)] == [0.5, 1.0, 1.0, 0.5, 0.0]


def test_unknown_modules_and_rates_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'adapters'"):
        check(override(demo(), ["train.lr_scale.adapter=3"]))
    with pytest.raises(ConfigError, match="must be positive"):
        check(override(demo(), ["train.lr_scale.heads=0"]))


def test_a_pass_shows_every_example_once_and_the_seed_decides() -> None:
    data = {"gqa": [Example(str(k), "a.jpg", "", "yes") for k in range(12)]}
    config = TrainConfig(batch_size=4)
    draws = [
        [e.id for draw in sampler.draws(last=3) for e in draw.examples]
        for sampler in (Sampler(data, config, seed=0), Sampler(data, config, seed=0), Sampler(data, config, seed=1))
    ]
    assert sorted(draws[0], key=int) == [str(k) for k in range(12)]
    assert draws[0] == draws[1] != draws[2]


def test_converged_means_that_no_score_moved_by_more_than_a_point() -> None:
    steady = [(8, {"gqa": 0.6, "vqa": 0.5}), (10, {"gqa": 0.605, "vqa": 0.495})]
    assert has_converged(steady) and not has_converged(steady[:1])
    assert not has_converged([steady[0], (10, {"gqa": 0.605, "vqa": 0.52})])


def test_two_processes_train_one_model_and_write_one_run(tmp_path: Path) -> None:
    # What `accelerate launch` starts for several GPUs; on CPUs it would ask for MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    places = ["--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    sizes = [
        "run=two",
        "world_scale=0.01",
        "train.steps=4",
        "train.blind_steps=2",
        "train.batch_size=24",
        "evaluate.rerank=4",
    ]
    line = [*launch, "-m", "experiments.combine", *places, "--tasks", "gqa", "flickr30k", "--set", *sizes]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run two:") == 1 and done.stdout.count("report:") == 1
    folder = tmp_path / "runs" / "two"
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert set(json.loads((folder / "results.json").read_text())["tasks"]) == {"gqa", "flickr30k"}
    assert not list(folder.rglob("*.unfinished"))
