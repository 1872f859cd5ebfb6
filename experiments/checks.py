"""What no run can honour, refused before anything is started.

Handed a configuration; hands it on with what `auto` means on this machine, or says which value cannot be, and the
nearest that can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments.config import TASKS, RunConfig
from experiments.errors import ConfigError, near
from experiments.precision import with_precision
from experiments.presets import PRESETS
from experiments.training.settings import check_train


def check(config: RunConfig) -> RunConfig:
    """Refuses values that no run can honour, and settles `auto`. Raises ConfigError."""
    train = config.train
    positive = {
        "evaluate.batch_size": config.evaluate.batch_size,
        "evaluate.rerank": config.evaluate.rerank,
        "world_scale": config.world_scale,
    }
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key}={value} must be positive")
    tables: dict[str, Mapping[str, Any]] = {
        "train.weights": train.weights,
        "train.per_task": train.per_task,
        "task_options": config.task_options,
    }
    for where, table in tables.items():
        for key in table:
            if key not in TASKS and key not in config.tasks:
                known = dict.fromkeys((*TASKS, *config.tasks))
                raise ConfigError(f"{where} names an unknown task {key!r}; {near(key, known)}")
    for key, weight in train.weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"train.weights.{key}={weight} must not be negative")
    if train.joint and config.tasks and not any(train.weights.get(task, 1.0) for task in config.tasks):
        raise ConfigError("train.weights are 0 for all tasks of the run: give one that it trains on a positive weight")
    _check_blind(config)
    for key in config.control_checkpoints:
        if key not in config.encoders:
            raise ConfigError(f"control_checkpoints names an unknown encoder {key!r}; {near(key, config.encoders)}")
    if not config.encoders and config.preset in PRESETS:
        raise ConfigError(f"preset {config.preset!r} has no encoders: name yours with --encoders ALIAS=SPEC …")
    if not config.tasks or not config.seeds or not config.encoders:
        raise ConfigError("a run needs at least one task, one seed and one encoder")
    if config.coalitions == "retrained" and config.evaluate.removals:
        raise ConfigError(
            f"evaluate.removals={list(config.evaluate.removals)} puts something in absent encoders' places, and with"
            " coalitions=retrained no model lacks any; nearest: coalitions=both"
        )
    if config.data is None and config.preset in ("base", "large"):
        raise ConfigError(
            f"preset {config.preset!r} has no data: name the folder of your datasets with --data (nearest that needs"
            " none: --preset tiny, on rendered pictures)"
        )
    if config.device is not None:
        check_device(config.device)
    if len(config.encoders) > 8:
        raise ConfigError(f"{len(config.encoders)} encoders make {2 ** len(config.encoders)} coalitions; at most 8")
    for where, settings in ({"train": train} | config.train_of_tasks()).items():
        check_train(settings, aliases=tuple(config.encoders), layers=config.fusion.layers, where=where)
    return with_precision(config)


def _check_blind(config: RunConfig) -> None:
    """Refuses a joint run whose blind model would train on nothing: retrieval has none. Raises ConfigError."""
    weights, wanted = config.train.weights, config.controls != "none" or config.coalitions == "retrained"
    if not config.train.joint or not wanted or all(weights.get(task, 1.0) for task in config.tasks):
        return
    from tasks import load_task

    own = {task: f"{task}={spec}" for task, spec in config.own_tasks.items()}
    blind = [task for task in config.tasks if load_task(own.get(task, task)).scoring == "answers"]
    if blind and not any(weights.get(task, 1.0) for task in blind):
        without = "" if config.coalitions == "retrained" else ", or set controls=none"
        raise ConfigError(
            f"train.weights are 0 for {', '.join(blind)}, the tasks that the model without images is trained on: give"
            f" one of them a positive weight, leave them out of --tasks{without}"
        )


def check_device(device: str) -> None:
    """Refuses a device that this machine does not have. Raises ConfigError."""
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    known = ["cpu", *(["cuda"] if gpus else []), *gpus]
    if device not in known:
        what = "has no float64, in which losses are summed" if device.startswith("mps") else "is not here"
        raise ConfigError(f"--device {device!r} {what}; this machine has {', '.join(known)}")
