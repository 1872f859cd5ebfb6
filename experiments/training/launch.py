"""The accelerator of a run: precision, processes, trackers.

Handed the settings; refuses what cannot be honoured before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs  # type: ignore[import-untyped]
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers  # type: ignore[import-untyped]
from accelerate.utils import ProjectConfiguration  # type: ignore[import-untyped]

from experiments.config import RunConfig
from experiments.errors import ConfigError, near
from experiments.training.settings import TrainConfig

PATIENCE = timedelta(hours=3)
"""How long processes wait for one another: while one reads annotations or renders, or has more to extract than they."""
NAMED_BY = {
    "clearml": "task_name",
    "mlflow": "run_name",
    "swanlab": "experiment_name",
    "trackio": "name",
    "wandb": "name",
}
"""How trackers that put models into a project are told a model's name."""


def make_accelerator(config: RunConfig) -> Accelerator:
    """The accelerator of a run. A step trains the head of one task, so the other heads get no gradient in it.

    Raises:
        ConfigError: the precision, a tracker or the number of processes cannot be honoured.
    """
    train = config.train
    names = tracker_names(train.trackers)
    if train.precision == "fp16" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("train.precision=fp16 needs a GPU, whose loss it scales; nearest on a CPU: auto")
    if config.device is not None and config.device.startswith("cuda:"):
        torch.cuda.set_device(config.device)
    # Its backward pass gives NaN with masks of some lengths (torch issue 196678), and it plans each length anew.
    torch.backends.cuda.enable_cudnn_sdp(False)
    made = Accelerator(
        cpu=on_cpu(config.device),
        mixed_precision=train.precision,
        log_with=list(names) or None,
        project_config=ProjectConfiguration(logging_dir=str(config.folder / "train" / "trackers")),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
    for where, settings in ({"train": train} | config.train_of_tasks()).items():
        check_processes(settings, made.num_processes, where=where)
    return made


def on_cpu(device: str | None) -> bool:
    """Whether processes work on the CPU: asked to, or because there is nothing else that has float64.

    Losses and fills are summed in float64, which Apple's GPUs do not have. Accelerate joins processes on CPUs only
    where it is told that they are on CPUs.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device == "cpu" or (device is None and (found is None or found.type == "mps"))


def check_processes(train: TrainConfig, processes: int, *, where: str = "train") -> None:
    """Refuses batches of which some process would have nothing. Raises ConfigError."""
    smallest = train.batch_size // (train.groups * train.accumulate)
    if processes > max(1, smallest):
        raise ConfigError(
            f"{where}.batch_size={train.batch_size} in {where}.groups={train.groups} and"
            f" {where}.accumulate={train.accumulate} leaves parts of {smallest}, fewer than the {processes} processes:"
            f" raise the one to {processes * train.groups * train.accumulate} or lower the others"
        )


def tracker_names(wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The trackers to use: tensorboard where it is installed, unless others, or none, are named.

    Raises:
        ConfigError: accelerate knows no such tracker, or its package is not installed.
    """
    installed = sorted(str(getattr(name, "value", name)) for name in get_available_trackers())
    if wanted is None:
        return ("tensorboard",) if "tensorboard" in installed else ()
    for name in wanted:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(f"train.trackers names {name!r}, which accelerate does not know; {near(name, _known())}")
        if name not in installed:
            have = ", ".join(installed) or "none"
            raise ConfigError(
                f"train.trackers names {name!r}, whose package is not installed: pip install {name}, or leave it out"
                f" (installed: {have})"
            )
    return wanted


def start_trackers(accelerator: Accelerator, values: Mapping[str, Any], *, project: str, model: str) -> None:
    """Starts the trackers that the accelerator was made with, in the first process.

    Like its `init_trackers`, which gives one name to all: a folder's in some trackers, a project's in others.

    Args:
        values: settings, which trackers show beside the curves.
        project: the run, whose models belong together.
        model: the model's name, which no other one in the project has.
    """
    for kind in map(str, accelerator.log_with) if accelerator.is_main_process else ():
        made = LOGGER_TYPE_TO_CLASS[kind]
        place = [accelerator.logging_dir] if made.requires_logging_directory else []
        own = {NAMED_BY[kind]: model} if kind in NAMED_BY else {}
        tracker = made(project if own else model, *place, **own)
        accelerator.trackers.append(tracker)
        tracker.start()
        tracker.store_init_configuration(dict(values))


def plain_settings(train: TrainConfig, **more: Any) -> dict[str, Any]:
    """Settings as numbers and strings, which is what trackers take."""
    values = {key: getattr(train, key) for key in TrainConfig.__dataclass_fields__} | more
    return {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in values.items()}


def _known() -> list[str]:
    return sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
