"""What a step sees and does: groups, parts, fills, frozen parts, averages, early stopping, what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import NUM_IMAGES, TOKENS, WIDTHS, Toy, same_weights

from experiments.errors import ConfigError
from experiments.evaluate import Evaluator
from experiments.model import TaskModel
from experiments.processes import Processes
from experiments.training.average import Average
from experiments.training.batches import Batches
from experiments.training.clock import StepClock
from experiments.training.gather import Shared
from experiments.training.sampler import Sampler
from experiments.training.settings import TrainConfig
from experiments.training.train import make_dropout, num_steps
from fusion.types import all_coalitions


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"), "gqa", "flickr30k")


def batches(toy: Toy, processes: Processes, **changes: Any) -> Batches:
    config = toy.config(**changes)
    model = toy.model(config)
    objectives = {task: model.objective(task) for task in toy.data}
    dropout = make_dropout(WIDTHS, config.train)
    return Batches(toy.bank, objectives, config.train, dropout, "masked", 0, 8, processes)


def draws(toy: Toy, **changes: Any) -> Any:
    train = {task: item.splits["train"].examples for task, item in toy.data.items()}
    return Sampler(train, toy.config(**changes).train, seed=0, together=["flickr30k"]).draws(last=8)


def test_processes_share_what_one_process_sees(toy: Toy) -> None:
    settings = {"batch_size": 15, "accumulate": 2, "groups": 2}
    alone, *shared = (batches(toy, Processes(k, n), **settings) for k, n in ((0, 1), (0, 2), (1, 2)))
    tasks = set()
    for draw in draws(toy, **settings):
        whole, parts = alone.read(draw), [one.read(draw) for one in shared]
        tasks.add(draw.task)
        assert sorted(e.id for part in whole.parts for g in part for e in g.examples) == sorted(
            e.id for e in draw.examples
        )
        for number, groups in enumerate(whole.parts):
            for place, group in enumerate(groups):
                own = [part.parts[number][place] for part in parts]
                assert {one.coalition for one in own} == {group.coalition}
                assert sum(one.share for one in own) == pytest.approx(group.share)
                assert [own[row % 2].examples[row // 2].id for row in range(len(group.examples))] == [
                    e.id for e in group.examples
                ]
                for alias in group.coalition:
                    assert torch.equal(own[1].features[alias].tokens, group.features[alias].tokens[1::2])
        assert sum(group.share for part in whole.parts for group in part) == pytest.approx(1)
    assert tasks == {"gqa", "flickr30k"}


def test_a_contrastive_batch_shares_one_coalition_that_is_not_empty(toy: Toy) -> None:
    reader = batches(toy, Processes(), empty=1.0, batch_size=12)
    for draw in draws(toy, batch_size=12):
        groups = [group for part in reader.read(draw).parts for group in part]
        if draw.task == "flickr30k":
            assert len(groups) == 1 and groups[0].coalition != ()
        else:
            assert [group.coalition for group in groups] == [(), ()]


def test_rows_of_a_shared_batch(toy: Toy) -> None:
    examples = toy.data["gqa"].splits["train"].examples[:5]
    assert [list(Shared(examples, Processes(k, 2)).rows) for k in (0, 1)] == [[0, 2, 4], [1, 3]]


def test_accumulated_parts_make_the_step_of_the_whole_batch(toy: Toy) -> None:
    only = {"weights": {"flickr30k": 0.0}, "batch_size": 16, "steps": 4, "validate_steps": 4, "log_steps": 1}
    losses = [toy.train(f"in {parts}", accumulate=parts, lr=1e-3, **only)[1]["losses"] for parts in (1, 3)]
    assert losses[0][0][1] != losses[0][-1][1]
    assert [loss for _, loss in losses[1]] == pytest.approx([loss for _, loss in losses[0]], rel=1e-4)


def test_losses_are_recorded_up_to_the_last_step(toy: Toy) -> None:
    """Also where training is shorter than the interval, or stops early: here after the second equal validation."""
    each = [loss for _, loss in toy.train("each", log_steps=1)[1]["losses"]]
    for every, patience, parts in ((50, None, [8]), (5, None, [5, 3]), (50, 1, [4])):
        _, record = toy.train(f"{every} {patience}", log_steps=every, patience=patience)
        ends = list(accumulate(parts))
        means = [sum(each[end - part : end]) / part for end, part in zip(ends, parts, strict=True)]
        assert record["losses"] == [(end, pytest.approx(mean)) for end, mean in zip(ends, means, strict=True)]


def test_frozen_parts_stay_and_the_rest_learns(toy: Toy) -> None:
    start = toy.model(toy.config()).state_dict()
    model, _ = toy.train("frozen", freeze=("text", "trunk[:1]", "adapters.clip"))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    frozen = ("fusion.text.", "fusion.operator.trunk.blocks.0.", "fusion.adapters.of_clip.")
    assert not [name for name in moved if name.startswith(frozen)]
    for part in ("operator.trunk.blocks.1", "adapters.of_vit", "match_head", "positions"):
        assert any(name.startswith(f"fusion.{part}") for name in moved), part


def test_fills_are_the_means_of_training_images(toy: Toy) -> None:
    model, _ = toy.train("filled", fill="mean", ve_dropout=1.0, empty=0.0)
    every = toy.bank.features("gqa", [f"{k}.jpg" for k in range(NUM_IMAGES)], tuple(WIDTHS))
    assert model.dropout is not None
    fills = model.dropout.fills(("vit",), batch_size=2)
    torch.testing.assert_close(fills["clip"].tokens[1], every["clip"].tokens.mean(0))
    given = toy.bank.features("gqa", ["0.jpg"], ("vit",))
    model.eval()
    assert model.fuse(["what?"], given, ("vit",)).spans["clip"] == slice(4 + TOKENS["vit"], 10)
    model.dropout = None
    assert "clip" not in model.fuse(["what?"], given, ("vit",)).spans


def test_rates_of_single_encoders_and_their_warm_up(toy: Toy) -> None:
    rates = {"ve_dropout": {"vit": 1.0, "clip": 0.0}, "empty": 0.0}
    reader = batches(toy, Processes(), ve_warmup=0.5, **rates)
    seen = {draw.step: {g.coalition for p in reader.read(draw).parts for g in p} for draw in draws(toy)}
    assert all(seen[step] == {("clip",)} for step in (4, 5, 6, 7, 8))
    assert set().union(*seen.values()) <= set(all_coalitions(("vit", "clip")))
    early = [reader._coalition(step, group, reader.objectives["gqa"]) for step in (1, 2) for group in range(40)]
    assert 0.3 < sum(c == ("clip",) for c in early) / 80 < 0.46  # chances 1/4 and 2/4


def test_training_stops_early_and_keeps_the_best(toy: Toy) -> None:
    scores, held = iter((0.1, 0.5, 0.4, 0.3, 0.9)), []

    def validate(model: TaskModel) -> Mapping[str, float]:
        held.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"gqa": next(scores), "flickr30k": 0.5}

    model, record = toy.train("early", validate=validate, steps=20, keep="best", patience=2, trials=5)
    assert record["budget"] == {"trials": 5, "steps": 20, "batch_size": 8, "lr": 1e-2}
    assert record["steps"] == 8 and record["kept"] == 4 and len(held) == 4
    assert [scores["gqa"] for _, scores in record["select"]] == [0.1, 0.5, 0.4, 0.3]
    assert all(torch.equal(value, held[1][name]) for name, value in model.state_dict().items())


def test_the_average_by_hand_is_what_is_validated_and_kept(toy: Toy) -> None:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, 1.0)
    average = Average(model, decay=0.5)
    for step, value in ((1, 2.0), (100, 5.0)):
        torch.nn.init.constant_(model.weight, value)
        average.update(step)
    # 2/11 of 1 and 9/11 of 2; then half of that and half of 5.
    assert average.state["weight"].item() == pytest.approx((2 / 11 + 18 / 11) / 2 + 2.5)
    with average.applied():
        assert model.weight.item() == average.state["weight"].item()
    assert model.weight.item() == 5.0
    seen: list[TaskModel] = []
    kept, _ = toy.train("average", validate=lambda now: seen.append(_copy(toy, now)) or {"gqa": 0.5}, ema=0.8)
    assert same_weights(kept, seen[-1])
    last, _ = toy.train("last")
    assert not same_weights(kept, last)


def _copy(toy: Toy, model: TaskModel) -> TaskModel:
    copied = toy.model(toy.config())
    copied.load_state_dict(model.state_dict())
    return copied


def test_matching_trains_the_model_s_own_head(toy: Toy) -> None:
    start = toy.model(toy.config()).fusion.match_head.state_dict()
    model, _ = toy.train("matching", weights={"gqa": 0.0})
    assert all(not torch.equal(value, start[name]) for name, value in model.fusion.match_head.state_dict().items())


@pytest.mark.parametrize(("operator", "layers"), [("concat", 4), ("coattention", 12)])
def test_every_layer_that_runs_is_compiled_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: str, layers: int
) -> None:
    """Two blocks of two halves; in co-attention a second trunk, and two layers of readings each way."""
    run: set[object] = set()

    def compiling(called: Callable[..., Any], **_: object) -> Callable[..., Any]:
        return lambda *args, **named: (run.add(called), called(*args, **named))[1]

    monkeypatch.setattr(torch, "compile", compiling)
    toy = Toy(tmp_path, "gqa")
    toy.fusion = replace(toy.fusion, operator=operator)
    toy.train("compiled", compile="blocks", steps=1)
    assert len(run) == layers


def test_the_share_of_time_that_training_waits_for_features_is_recorded(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"validate_steps": 8, "checkpoint_steps": None}
    read = type(toy.bank).of_examples

    def slowly(*args: Any, **named: Any) -> Any:
        time.sleep(0.3)
        return read(*args, **named)

    _, quick = toy.train("quick", **settings)
    monkeypatch.setattr(type(toy.bank), "of_examples", slowly)
    _, slow = toy.train("slow", **settings)
    assert 0 <= quick["waiting"] < slow["waiting"] < 1 and slow["waiting"] > 0.5
    assert slow["step_ms"]["wall"] >= 300


def test_waiting_is_a_share_of_the_steps_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, at = StepClock(), iter((0.0, 10.0, 50.0, 60.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(at))
    assert clock.waiting() is None
    clock.step_ended(waited=7.0)  # what the first batch took is no part of a step
    clock.step_ended(waited=9.0)
    clock.rest()
    clock.step_ended(waited=40.0)
    clock.step_ended(waited=41.0)
    assert clock.waiting() == pytest.approx((2.0 + 1.0) / 20.0)


def test_epochs_and_steps(toy: Toy) -> None:
    settings = TrainConfig(steps=7, blind_steps=3, batch_size=10)
    assert num_steps(settings, "masked", 105) == 7 and num_steps(settings, "blind", 105) == 3
    assert num_steps(replace(settings, epochs=2.0), "masked", 105) == 21


def test_another_seed_another_order(toy: Toy, tmp_path: Path) -> None:
    train = {task: item.splits["train"].examples for task, item in toy.data.items()}
    steps = [list(Sampler(train, toy.config().train, seed=seed).draws(last=6)) for seed in (0, 0, 1)]
    assert steps[0] == steps[1] != steps[2]
    late = list(Sampler(train, toy.config().train, seed=0).draws(after=4, last=6))
    assert late == steps[0][4:]


@pytest.mark.parametrize(
    ("broken", "changes", "remedy"),
    [
        ("training", {}, r"a step of 8 examples .*: train.accumulate=2 works it off in 2 parts"),
        ("training", {"accumulate": 4}, r"a step of 8 examples .*: a smaller fusion takes less"),
        ("evaluation", {}, r"a batch of 256 in evaluation .*: evaluate.batch_size=128 takes half"),
    ],
)
def test_what_does_not_fit_the_gpu_is_one_line(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, changes: dict[str, Any], remedy: str
) -> None:
    encode, training = TaskModel.encode, broken == "training"

    def full(self: TaskModel, *args: Any, **kwargs: Any) -> Any:
        if self.training == training:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return encode(self, *args, **kwargs)

    def validate(model: TaskModel) -> dict[str, float]:
        answers = Evaluator(model, toy.bank, toy.data["gqa"], "select", batch_size=256).answers(("vit",))
        return {"gqa": float(len(answers))}

    monkeypatch.setattr(TaskModel, "encode", full)
    with pytest.raises(ConfigError, match=remedy) as caught:
        toy.train(tmp_path.name, validate=validate, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize(
    ("poison", "said"),
    [("loss", "the loss of steps up to 6 is nan"), ("gradient", "is not finite after step 4; .*a lower train.lr than")],
)
def test_training_that_breaks_down_leaves_no_checkpoint_and_no_model(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None, poison: str, said: str
) -> None:
    """One gradient that is NaN spoils all weights through the norm, and the loss of its own step is still fine."""
    forward, calls = TaskModel.forward, []

    def broken(self: TaskModel, *args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        loss = forward(self, *args, **kwargs)
        if poison == "loss":
            return loss * torch.nan if len(calls) == 5 else loss
        if len(calls) == 4:
            loss.register_hook(lambda gradient: gradient * torch.nan)
        return loss

    monkeypatch.setattr(TaskModel, "forward", broken)
    with pytest.raises(ConfigError, match=f"training broke down: .*{said}"):
        every = 4 if poison == "gradient" else None
        toy.train(tmp_path.name, clip_norm=clip, log_steps=6 if every is None else 8, checkpoint_steps=every)
    assert not list((toy.folder / tmp_path.name).glob("step-*"))
