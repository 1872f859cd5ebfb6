"""What a run works on: the splits of its tasks, and the stored features of their images.

Handed a configuration; hands on `TaskData` (examples with the digest of each image) and a `FeatureBank` that gives
the features of any examples as `fusion` wants them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from encoders.base import Encoder
from encoders.extract import Shard, extract
from encoders.store import FeatureStore
from experiments.config import RunConfig
from experiments.errors import ConfigError
from experiments.world.build import build_world
from fusion.types import Features
from tasks import load_task
from tasks.base import Example, Split, Task

if TYPE_CHECKING:
    import torch

Part = Literal["train", "select", "test"]
PARTS: tuple[Part, ...] = ("train", "select", "test")


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task and its three splits."""

    task: Task
    splits: Mapping[Part, Split]

    def paths(self, part: Part) -> dict[str, Path]:
        """Image name -> file, for every image of a split."""
        split = self.splits[part]
        return {example.image: split.image_path(example) for example in split.examples}


def check_data(config: RunConfig) -> None:
    """Refuses a data folder that is not there, before anything slow is loaded. Raises ConfigError."""
    if config.data is not None and not Path(config.data).is_dir():
        raise ConfigError(f"--data {config.data} is not a folder")


def find_data(config: RunConfig) -> Path:
    """The folder with one folder per dataset; the embedded world is written first where none is named."""
    if config.data is not None:
        check_data(config)
        return Path(config.data)
    world = Path(config.cache) / f"world-seed{config.world_seed}-scale{config.world_scale:g}"
    return build_world(world, seed=config.world_seed, scale=config.world_scale)


def task_options(config: RunConfig, name: str) -> dict[str, object]:
    """The training settings that are options of a built-in task."""
    if name == "vqa":
        return {"min_count": config.train.min_count}
    return {"negatives": config.train.negatives} if name in ("flickr30k", "coco") else {}


def _load(config: RunConfig, name: str) -> Task:
    spec = f"{name}={config.own_tasks[name]}" if name in config.own_tasks else name
    return load_task(spec, **task_options(config, name))


def read_tasks(config: RunConfig, data: Path) -> dict[str, TaskData]:
    """Reads all splits of all tasks, and looks for every image."""
    tasks = {task.name: task for task in (_load(config, name) for name in config.tasks)}
    for name in config.images:
        if name not in tasks:
            raise ConfigError(f"--images names task {name!r}, which is not among {', '.join(tasks)}")
    found: dict[str, TaskData] = {}
    for name, task in tasks.items():
        images = Path(config.images[name]) if name in config.images else None
        splits = {part: task.read(data / name, part, images=images, limit=config.evaluate.limit) for part in PARTS}
        for split in splits.values():
            split.check_images()
        found[name] = TaskData(task, splits)
    return found


class FeatureBank:
    """Features of the run's images, by task and image name, from one store per encoder."""

    def __init__(self, stores: Mapping[str, FeatureStore], digests: Mapping[tuple[str, str], str]) -> None:
        self._stores = dict(stores)
        self._digests = dict(digests)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The run's encoders in the run's order."""
        return tuple(self._stores)

    def summary(self) -> list[str]:
        """One line per encoder: images stored, bytes an image, folder."""
        return [
            f"{alias}: {len(store)} images, {store.bytes_per_image} bytes each, in {store.folder}"
            for alias, store in self._stores.items()
        ]

    def features(
        self, task: str, images: Sequence[str], coalition: Sequence[str], device: torch.device | str = "cpu"
    ) -> dict[str, Features]:
        """Tokens b n d, boxes b n 4 and valid b n of each encoder in the coalition."""
        digests = [self._digests[task, image] for image in images]
        return {alias: Features(*self._stores[alias].read(digests)).to(device) for alias in coalition}

    def of_examples(
        self,
        task: str,
        examples: Sequence[Example],
        coalition: Sequence[str],
        device: torch.device | str = "cpu",
    ) -> dict[str, Features]:
        """Features of each example's image, in order."""
        return self.features(task, [example.image for example in examples], coalition, device)


def fill_stores(
    config: RunConfig,
    data: Mapping[str, TaskData],
    encoders: Mapping[str, Encoder],
    *,
    shard: Shard = Shard(),  # noqa: B008  an immutable value
    undecodable: Literal["refuse", "exclude"] = "refuse",
    batch_size: int = 64,
    progress: Literal["bar", "none"] = "bar",
) -> FeatureBank:
    """Extracts what is not stored yet, or this process's share of it; the bank knows the images that decode."""
    root = Path(config.cache) / "features"
    named = {
        (name, image): path for name, task in data.items() for part in PARTS for image, path in task.paths(part).items()
    }
    digests = extract(
        list(dict.fromkeys(named.values())),
        list(encoders.values()),
        root=root,
        batch_size=batch_size,
        progress=progress,
        shard=shard,
        undecodable=undecodable,
    )
    stores = {alias: FeatureStore(root, encoder) for alias, encoder in encoders.items()}
    return FeatureBank(stores, {key: digests[path] for key, path in named.items() if path in digests})
