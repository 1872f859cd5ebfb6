"""What a run works on: the splits of its tasks, from official files or the embedded world.

Handed a configuration; hands on `TaskData`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from experiments.config import TASKS, RunConfig
from experiments.errors import ConfigError, near
from experiments.world.build import MARK, WORLD_VERSION, build_world
from tasks import load_task
from tasks.base import Example, Split, Task
from tasks.check import read_exclusions
from tasks.run_splits import check_answered, check_apart, compare_with_train

Part = Literal["train", "select", "test"]
PARTS: tuple[Part, ...] = ("train", "select", "test")
SHOWN = 12


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task and its three splits."""

    task: Task
    splits: Mapping[Part, Split]

    def paths(self, part: Part) -> dict[str, Path]:
        """Image name -> file, for every image of a split."""
        split = self.splits[part]
        return {example.image: split.image_path(example) for example in split.examples}

    def without(self, images: Collection[str]) -> TaskData:
        """The task without these images' examples; its splits say what they lack."""
        return replace(self, splits={part: split.without(images) for part, split in self.splits.items()})


def check_data(config: RunConfig) -> None:
    """Refuses data that are not there and options that tasks do not have, before anything slow is done.

    Raises:
        ConfigError, TaskError: naming the folder, the task or the option.
    """
    for name in config.tasks:
        _load(config, name)
    for name in config.images:
        if name not in config.tasks:
            raise ConfigError(f"--images names task {name!r}, which is not among the run's; {near(name, config.tasks)}")
    if config.data is not None:
        _check_folders(Path(config.data), config.tasks)
        return
    for name in config.tasks:
        if name not in TASKS:
            raise ConfigError(
                f"{name!r} is not in the embedded world: name --data PARENT, the folder with its folder {name!r}"
            )


def _check_folders(data: Path, tasks: Sequence[str]) -> None:
    """Raises ConfigError unless the data folder has one of each task's name."""
    if not data.is_dir():
        raise ConfigError(f"--data {data} is not a folder")
    for name in tasks:
        if (data / name).is_dir():
            continue
        if data.resolve().name == name:
            raise ConfigError(
                f"--data {data} holds no folder {name!r}, but is called so: name the folder above, --data"
                f" {data.resolve().parent}"
            )
        spelled = {_plain(place.name): place.name for place in sorted(data.iterdir()) if place.is_dir()}
        close = get_close_matches(_plain(name), spelled, n=1)
        hint = f" (did you mean {spelled[close[0]]!r}? rename it, or make a link {name!r} to it)" if close else ""
        held = ", ".join([*spelled.values()][:SHOWN]) + (", …" if len(spelled) > SHOWN else "")
        problem = f"holds {held or 'no folder'}: a dataset's folder must be called {name!r}{hint}"
        raise ConfigError(f"--data {data} {problem}")


def _plain(name: str) -> str:
    """A name as people may spell it: SNLI-VE is near snli_ve."""
    return name.lower().replace("-", "_")


def _world(config: RunConfig) -> Path:
    name = f"world{WORLD_VERSION}-seed{config.world_seed}-scale{config.world_scale:g}"
    return Path(config.cache) / name


def world_is_there(config: RunConfig) -> bool:
    """Whether the embedded world is written already, as a whole."""
    return (_world(config) / MARK).exists()


def find_data(config: RunConfig) -> Path:
    """The folder with one folder per dataset; the embedded world is written first where none is named."""
    check_data(config)
    if config.data is not None:
        return Path(config.data)
    return build_world(_world(config), seed=config.world_seed, scale=config.world_scale)


def _load(config: RunConfig, name: str) -> Task:
    spec = f"{name}={config.own_tasks[name]}" if name in config.own_tasks else name
    return load_task(spec, **config.task_options.get(name, {}))


def read_tasks(config: RunConfig, data: Path) -> dict[str, TaskData]:
    """Reads all splits of all tasks without the images to exclude, and looks for every other image.

    Raises:
        DatasetError: a file is not of its format, a held-out split has examples of the training split or lacks answers
            to be scored by, or images are missing.
    """
    tasks = {task.name: task for task in (_load(config, name) for name in config.tasks)}
    excluded = read_exclusions(Path(config.exclude)) if config.exclude is not None else ()
    found: dict[str, TaskData] = {}
    for name, task in tasks.items():
        images = Path(config.images[name]) if name in config.images else None
        splits = {part: task.read(data / name, part, images=images, limit=config.evaluate.limit) for part in PARTS}
        found[name] = TaskData(task, splits).without(excluded)
        _check_held_out(found[name], data / name)
        for split in found[name].splits.values():
            split.check_images(remedy=f"--images {name}=FOLDER")
    return found


def _check_held_out(data: TaskData, folder: Path) -> None:
    """Refuses splits that select or test on what was trained on, or that cannot be scored. Raises DatasetError."""
    held_out: dict[str, list[Example]] = {part: data.splits[part].examples for part in PARTS if part != "train"}
    compared = compare_with_train(data.splits["train"].examples, held_out)
    check_apart(data.task, folder, compared)
    check_answered(data.task, folder, compared)
