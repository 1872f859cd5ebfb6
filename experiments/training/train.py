"""Trains one model on its tasks' batches with VE-dropout.

Handed a `TaskModel`, data and features; hands on the training record, and leaves the model with the weights that are to
be kept. It goes on from the newest checkpoint in its folder, and ends as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from accelerate import Accelerator  # type: ignore[import-untyped]

from experiments.bank import FeatureBank
from experiments.config import RunConfig
from experiments.data import TaskData
from experiments.model import TaskModel
from experiments.processes import Processes
from experiments.training.batches import Batches, Mode
from experiments.training.checkpoint import Checkpoints
from experiments.training.interruption import Interruption
from experiments.training.launch import plain_settings, start_trackers
from experiments.training.loop import Loop, Validate
from experiments.training.reader import ReadAhead
from experiments.training.sampler import Sampler
from experiments.training.settings import TrainConfig
from fusion.ve_dropout import VEDropout


def train_model(
    model: TaskModel,
    data: Mapping[str, TaskData],
    bank: FeatureBank,
    config: RunConfig,
    *,
    name: str,
    mode: Mode,
    seed: int,
    accelerator: Accelerator,
    validate: Validate,
    checkpoints: Checkpoints,
) -> dict[str, Any]:
    """Trains in place; returns the record (losses, validation scores, steps, whether it had converged).

    Args:
        name: of the model, and of its progress bar and tracked run.
        mode: with VE-dropout, or without any encoder.
        validate: the official metric of each task; the same in all processes.

    Raises:
        SystemExit: SIGTERM came; a checkpoint of the last step was written.
        ConfigError: a process cannot read the checkpoint that the first one goes on from; a step does not fit the
            GPU's memory; loss or weights are no longer finite.
    """
    settings = config.train_of(*data)
    train = {task: item.splits["train"].examples for task, item in data.items()}
    steps = num_steps(settings, mode, sum(len(examples) for examples in train.values()))
    processes = Processes.of(accelerator)
    dropout = model.dropout or make_dropout(model.fusion.widths, settings)
    objectives = {task: model.objective(task) for task in data}
    pin = accelerator.device.type == "cuda"
    batches = Batches(bank, objectives, settings, dropout, mode, seed, steps, processes, pin=pin)
    together = [task for task, objective in objectives.items() if objective.scope == "batch"]
    sampler = Sampler(train, settings, seed=seed, together=together)
    own = not config.train.joint and len(data) == 1
    where = f"train.per_task.{next(iter(data))}" if own else "train"
    with Interruption(processes) as interruption:
        loop = Loop(model, settings, steps, accelerator, validate, checkpoints, interruption, seed=seed, where=where)
        if not loop.resume() and model.dropout is not None:
            observe(model.dropout, data, bank, count=settings.fill_images)
        tracked = f"{config.name}-{name}-{mode}-{seed}"
        start_trackers(accelerator, plain_settings(settings, seed=seed), project=config.name, model=tracked)
        source = map(batches.read, sampler.draws(after=loop.progress.step, last=steps))
        with ReadAhead(source, alone=accelerator.device.type == "cpu") as ahead, loop.bar(name) as bar:
            for batch in takewhile(lambda _: not loop.stops_early, ahead):  # asked before the first step too
                loop.step(batch, waited=ahead.waited)
                bar.update(settings.batch_size)
        loop.finish()
    for tracker in accelerator.trackers:  # not end_training(), which would part the processes for good
        tracker.finish()
    accelerator.trackers = []
    accelerator.free_memory()
    return loop.record(name, mode, seed)


def num_steps(settings: TrainConfig, mode: Mode, examples: int) -> int:
    """Steps of a training run over so many examples."""
    if mode == "blind" and settings.blind_steps is not None:
        return settings.blind_steps
    if settings.epochs is None:
        return settings.steps
    return max(1, round(settings.epochs * examples / settings.batch_size))


def make_dropout(widths: Mapping[str, int], settings: TrainConfig) -> VEDropout:
    """VE-dropout as the settings say."""
    rate, empty = settings.ve_dropout, settings.empty
    return VEDropout(widths, rate=rate, empty=empty, fill=settings.fill, warmup=settings.ve_warmup)


def observe(
    dropout: VEDropout, data: Mapping[str, TaskData], bank: FeatureBank, *, count: int, batch: int = 64
) -> None:
    """Shows VE-dropout the features of training images, taken evenly from the tasks, to make its fills of."""
    device = next(dropout.buffers()).device
    for task, item in data.items():
        images = item.splits["train"].images()
        chosen = images[:: max(1, len(images) * len(data) // count)]
        for start in range(0, len(chosen), batch):
            dropout.observe(bank.features(task, chosen[start : start + batch], bank.aliases, device))
