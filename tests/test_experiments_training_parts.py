"""The parts of training: rates, sampling, reading ahead, convergence, presets, and what is refused."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from experiments.checks import check
from experiments.config import RunConfig, override
from experiments.errors import ConfigError
from experiments.model import TaskModel
from experiments.presets import demo, preset
from experiments.training.launch import check_processes, make_accelerator, tracker_names
from experiments.training.optimizer import module_of, parameter_groups
from experiments.training.progress import Progress, has_converged
from experiments.training.reader import ReadAhead
from experiments.training.sampler import Sampler
from experiments.training.schedule import learning_rate
from experiments.training.settings import MODULES, TrainConfig
from fusion.config import FusionConfig
from fusion.model import FusionModel
from tasks import TASKS
from tasks.base import Example
from tasks.objectives import ClassificationObjective


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


def test_no_number_is_worse_than_any() -> None:
    progress = Progress()
    found = []
    for step, score in enumerate((math.nan, math.nan, 0.1, math.nan, 0.2), start=1):
        progress.step = step
        found.append(progress.validated({"gqa": score, "vqa": 0.0}))
    assert found == [True, False, True, False, True]
    assert (progress.best_step, progress.best_score, progress.stale) == (5, pytest.approx(0.1), 0)
    early = Progress()
    early.validated({"gqa": math.nan})
    assert Progress.from_dict(json.loads(json.dumps(early.to_dict()))).validated({"gqa": 0.0})


def test_schedules_rise_alike_and_fall_apart() -> None:
    at = {name: [learning_rate(step, 10, 0.2, name) for step in (0, 2, 6, 10)] for name in ("cosine", "constant")}
    assert at["cosine"] == pytest.approx([0.5, 1.0, 0.5, 0.0]) and at["constant"] == [0.5, 1.0, 1.0, 1.0]
    # Half way down, a line and a half cosine meet; at a quarter of the way the cosine is (1 + cos 45 deg) / 2.
    assert learning_rate(4, 10, 0.2, "cosine") == pytest.approx((1 + 2**-0.5) / 2)


def test_batches_by_length_pad_little_and_show_every_example_once() -> None:
    texts = [" ".join(["word"] * (1 + k * 7 % 32)) for k in range(64)]
    data = {"gqa": [Example(str(k), "a.jpg", text, "yes") for k, text in enumerate(texts)]}
    padding = []
    for bucket in (1, 8):
        draws = list(Sampler(data, TrainConfig(batch_size=8, bucket=bucket), seed=0).draws(last=8))
        assert sorted(int(e.id) for draw in draws for e in draw.examples) == list(range(64))
        lengths = [[len(e.text.split()) for e in draw.examples] for draw in draws]
        padding.append(sum(max(row) * len(row) for row in lengths) / sum(map(sum, lengths)) - 1)
    assert padding[0] > 0.5 and padding[1] < 0.1


def test_batches_that_belong_together_are_not_sorted() -> None:
    data = {"coco": [Example(str(k), "a.jpg", "word " * (1 + k % 8), None) for k in range(64)]}
    config = TrainConfig(batch_size=8)
    loose, sorted_ = (list(Sampler(data, config, seed=0, together=t).draws(last=8)) for t in (["coco"], []))
    spread = [max(max(n) - min(n) for n in ([len(e.text) for e in d.examples] for d in ds)) for ds in (loose, sorted_)]
    assert spread[0] > 20 and spread[1] == 0


def test_reading_ahead_keeps_the_order_and_hands_errors_on() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"), ReadAhead(source()) as ahead:
        for item in ahead:
            found.append(item)
    assert found == [0, 1, 2, 3, 4]


def test_reading_ahead_overlaps_with_work_and_stops_when_left() -> None:
    started: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            started.append(number)
            yield number

    with ReadAhead(source(), depth=2) as ahead:
        for item in ahead:
            while len(started) < 4:  # one handed over, two waiting, one being put
                time.sleep(0.001)
            assert item == 0
            break
    assert len(started) <= 5 and not ahead._thread.is_alive()


def test_the_readers_thread_count_is_its_own() -> None:
    before = torch.get_num_threads()

    def source() -> Iterator[int]:
        yield torch.get_num_threads()

    try:
        torch.set_num_threads(3)
        for alone, expected in ((True, 1), (False, 3)):
            with ReadAhead(source(), alone=alone) as ahead:
                assert next(iter(ahead)) == expected and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.schedule=cosin"], "did you mean 'cosine'"),
        (["train.freeze=[\"txt\"]"], "did you mean 'text'"),
        (["train.freeze=[\"adapters.clop\"]"], "did you mean 'adapters.clip'"),
        (["train.freeze=[\"trunk[:9]\"]"], "the trunk has layers 0 to 3"),
        (['train.ve_dropout={"vit": 0.5}'], "no rate for encoder 'clip'"),
        (['train.ve_dropout={"vit": 0.5, "clap": 0.1}'], "did you mean 'clip'"),
        (["train.ve_dropout=1.5"], "between 0 and 1"),
        (["train.ema=2"], "train.ema=2.0 must be between 0 and 1"),
        (["train.patience=3"], "train.keep=best"),
        (["train.groups=2", "train.accumulate=40"], "nearest: batch_size=80"),
        (["train.per_task.gqq.lr=1"], "did you mean 'gqa'"),
        (["train.per_task.gqa.lrr=1"], "did you mean 'lr'"),
        (["train.per_task.gqa.lr=0"], "train.per_task.gqa.lr=0.0 must be positive"),
        (["train.per_task.gqa.precision=bf16"], "set train.precision"),
        (["train.checkpoint_steps=0"], "must be positive"),
        (["train.validate_examples=0"], "train.validate_examples=0 must be positive"),
        (["train.weights.gqa=-1"], "train.weights.gqa=-1.0 must not be negative"),
        ([f"train.weights.{task}=0" for task in TASKS], "0 for all tasks of the run"),
        (["train.joint=false", "train.weights.gqa=2"], "each task has its own: train.joint"),
        (["coalitions=retrained", "train.ve_dropout=0.2"], "nearest: coalitions=both"),
        (["train.joint=true", "train.per_task.gqa.lr=1"], "nearest: train.joint=false"),
        (["train.per_task.gqa.empty=0.2", "coalitions=retrained"], "nearest: coalitions=both"),
        (["train.steps=5", "train.epochs=2"], "exclude each other"),
        (["train.steps=1e3"], "must be of type int"),
        (['seeds=[0,"x"'], "in a shell: 'seeds=[0, "),
        (["train.lr.vit=1"], "train.lr is one value"),
        (["train.ve_dropout.vat=0.5"], "did you mean 'vit'"),
        (["train.lr=.25"], "must be of type float; nearest: 0.25"),
        (["train.clip_norm=None"], "nearest: null"),
        (["train.freeze=[text,trunk[:6]]"], """in a shell: 'train.freeze=["text", "trunk[:6]"]'"""),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(settings: list[str], said: str) -> None:
    changed = ["train.joint=false"] if "per_task" in settings[0] else []
    with pytest.raises(ConfigError) as caught:
        check(override(demo(), [*changed, *settings]))
    assert said in str(caught.value)


def test_a_setting_holds_for_every_task_but_one_that_is_named() -> None:
    """Presets have values of single tasks; what the user asks for goes before them."""
    named = replace(preset("base"), encoders=dict(demo().encoders), data="data")
    asked = ["train.per_task.gqa.lr=1e-5", "train.lr=3e-4", "train.lr_scale.heads=2", "train.epochs=1"]
    changed = check(override(named, [*asked, "train.batch_size=64", "train.accumulate=4"]))
    for task in TASKS:
        found = changed.train_of(task)
        assert found.lr == (1e-5 if task == "gqa" else 3e-4) and found.epochs == 1.0
        assert (found.batch_size, found.accumulate, found.lr_scale["heads"]) == (64, 4, 2.0)
        assert found.lr_scale["adapters"] == named.train_of(task).lr_scale["adapters"]
    steps = check(override(named, ["train.steps=10", "train.per_task.vqa.epochs=3", "train.per_task.coco.steps=7"]))
    found = {task: (steps.train_of(task).steps, steps.train_of(task).epochs) for task in TASKS}
    assert found == dict.fromkeys(TASKS, (10, None)) | {"vqa": (10, 3.0), "coco": (7, None)}
    own = override(named, ["train.per_task.vqa.ve_dropout.clip=0.1", "train.ve_dropout.vit=0.3"])
    assert own.train_of("vqa").ve_dropout == {"vit": 0.3, "clip": 0.1, "dino": 0.5, "convnext": 0.5}
    assert own.train_of("gqa").ve_dropout == {"vit": 0.3, "clip": 0.5, "dino": 0.5, "convnext": 0.5}
    rates = override(demo(), ["train.ve_dropout=0.2", "train.ve_dropout.clip=0.6"]).train.ve_dropout
    assert rates == {"vit": 0.2, "clip": 0.6, "dino": 0.2, "convnext": 0.2}


def test_a_blind_model_that_would_train_on_nothing_is_refused_by_name() -> None:
    """The blind model of a joint run is trained on all its tasks but retrieval."""
    none = ["train.weights.gqa=0", "train.weights.vqa=0"]
    joint = replace(demo(), tasks=("flickr30k", "gqa", "vqa"))
    for changes in ({}, {"coalitions": "retrained", "controls": "none"}, {"tasks": ("flickr30k", "gqa")}):
        with pytest.raises(ConfigError, match="train.weights are 0 for gqa(, vqa)?, the tasks that the model without"):
            check(override(replace(joint, **changes), none))
    check(override(replace(joint, controls="none"), none))
    check(override(joint, none[:1]))
    check(override(replace(joint, tasks=("flickr30k", "coco")), ["train.weights.coco=0"]))
    check(override(override(joint, none), ["train.joint=false"]))


def test_presets_follow_the_recipes_and_round_trip() -> None:
    for name, layers in (("base", 12), ("large", 24)):
        config = preset(name)
        with pytest.raises(ConfigError, match=f"preset '{name}' has no encoders: name yours"):
            check(config)
        named = check(replace(config, encoders=dict(demo().encoders), data="data"))
        assert RunConfig.from_dict(json.loads(json.dumps(named.to_dict()))) == named and named.fusion.layers == layers
        vqa, memes = named.train_of("vqa"), named.train_of("hateful_memes")
        assert (vqa.lr, vqa.batch_size, vqa.epochs, vqa.lr_scale["heads"]) == (5e-6, 512, 10.0, 50.0)
        assert (memes.lr, memes.batch_size, memes.steps, memes.epochs) == (5e-5, 64, 22_000, None)
        assert vqa.batch_size / vqa.accumulate == (64 if name == "base" else 32)
        assert named.train_of("vqa", "gqa") == named.train
    assert check(preset("tiny")).train.joint is False


def test_what_an_accelerator_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = replace(demo(), device="cpu")
    with pytest.raises(ConfigError, match="nearest on a CPU: auto"):
        make_accelerator(check(override(on_cpu, ["train.precision=fp16"])))
    refused = {"mps": "'mps' has no float64", "gpu": "'gpu' is not here", "cuda:99": "'cuda:99' is not here"}
    for device, why in refused.items():
        with pytest.raises(ConfigError, match=f"{why}.*this machine has cpu"):
            check(replace(demo(), device=device))
    with pytest.raises(ConfigError, match="leaves parts of 32, fewer than the 33 processes: raise the one to 66"):
        check_processes(replace(demo().train, groups=2), 33)
    monkeypatch.setattr("experiments.training.launch.get_available_trackers", lambda: ["tensorboard", "wandb"])
    assert tracker_names(None) == ("tensorboard",) and tracker_names(()) == () and tracker_names(("wandb",))
    with pytest.raises(ConfigError, match="did you mean 'wandb'"):
        tracker_names(("wandbb",))
    with pytest.raises(ConfigError, match=r"pip install mlflow, or leave it out \(installed: tensorboard, wandb\)"):
        tracker_names(("mlflow",))
    monkeypatch.setattr("experiments.training.launch.get_available_trackers", lambda: [])
    assert tracker_names(None) == ()
