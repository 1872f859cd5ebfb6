"""What a run works on: the splits of its tasks, and the stored features of their images.

Handed a configuration; hands on `TaskData` (examples with the digest of each image) and a `FeatureBank` that gives
the features of any examples as `fusion` wants them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import torch

from encoders.base import Encoder
from encoders.errors import StoreError
from encoders.extract import Shard, extract
from encoders.images import Undecodable
from encoders.memory import USUAL, BatchSize
from encoders.store import FeatureStore
from experiments.config import TASKS, RunConfig
from experiments.errors import ConfigError, near
from experiments.world.build import MARK, WORLD_VERSION, build_world
from fusion.types import Features
from tasks import load_task
from tasks.base import Example, Split, Task
from tasks.check import read_exclusions
from tasks.run_splits import check_answered, check_apart, compare_with_train

Part = Literal["train", "select", "test"]
PARTS: tuple[Part, ...] = ("train", "select", "test")
SHOWN = 12
DIGESTS = "digests"
"""Folder of the cache that remembers the digests of image files."""
SIGHT_SECONDS = 60.0
"""For so long a network file system may show a machine a folder as it was before another one wrote to it."""


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


@dataclass(frozen=True, slots=True)
class Source:
    """What one input of a model reads: an encoder's features, or a part of them.

    Attributes:
        encoder: alias of the encoder.
        view: one view for good, where it has several; None for the one asked for, or the plain image.
        part: of `parts` equal parts of its tokens, every `parts`-th token from this one on.
    """

    encoder: str
    view: int | None = None
    part: int = 0
    parts: int = 1


class FeatureBank:
    """Features of the run's images, by task and image name, from one store per view of each encoder.

    Args:
        stores: by alias of the encoder, one a view.
        digests: by task and image name.
        sources: what each input of the model reads; by default each reads the encoder of its name.
    """

    def __init__(
        self,
        stores: Mapping[str, Sequence[FeatureStore]],
        digests: Mapping[tuple[str, str], str],
        sources: Mapping[str, Source] | None = None,
    ) -> None:
        self._stores = {alias: tuple(views) for alias, views in stores.items()}
        self._digests = dict(digests)
        self._sources = dict(sources) if sources is not None else {alias: Source(alias) for alias in stores}

    def reading(self, sources: Mapping[str, Source]) -> FeatureBank:
        """The same features for a model with other inputs."""
        return FeatureBank(self._stores, self._digests, sources)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The model's inputs in the run's order: the encoders, unless it has others."""
        return tuple(self._sources)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each input's tokens."""
        return {alias: self._stores[source.encoder][0].meta.width for alias, source in self._sources.items()}

    def summary(self) -> list[str]:
        """One line per encoder: images stored, bytes an image, folder."""
        return [
            f"{alias}: {len(views[0])} images, {len(views) * views[0].bytes_per_image} bytes each"
            f"{f' ({len(views)} views)' if len(views) > 1 else ''}, in {views[0].folder}"
            for alias, views in self._stores.items()
        ]

    def digest(self, task: str, image: str) -> str:
        """Digest of an image's bytes, its key in every store."""
        return self._digests[task, image]

    def lacking(self, data: TaskData) -> list[str]:
        """Images of a task that have no features, because they were left out as undecodable."""
        images = dict.fromkeys(image for part in PARTS for image in data.splits[part].images())
        return [image for image in images if (data.task.name, image) not in self._digests]

    def features(
        self,
        task: str,
        images: Sequence[str],
        coalition: Sequence[str],
        device: torch.device | str = "cpu",
        *,
        views: Sequence[int] | None = None,
    ) -> dict[str, Features]:
        """Tokens b n d in the store's precision, boxes b n 4 and valid b n of each encoder in the coalition.

        Args:
            views: a number for each image, that picks the view of it in each encoder that has several (modulo how
                many it has); None for view 0, the plain image.
        """
        digests = [self.digest(task, image) for image in images]
        return {alias: self._read(alias, digests, views).to(device) for alias in coalition}

    def of_examples(
        self,
        task: str,
        examples: Sequence[Example],
        coalition: Sequence[str],
        device: torch.device | str = "cpu",
        *,
        views: Sequence[int] | None = None,
    ) -> dict[str, Features]:
        """Features of each example's image, in order."""
        return self.features(task, [example.image for example in examples], coalition, device, views=views)

    def _read(self, alias: str, digests: Sequence[str], views: Sequence[int] | None) -> Features:
        source = self._sources[alias]
        stores = self._stores[source.encoder]
        if source.view is not None:
            stores = stores[source.view : source.view + 1]
        found = _read_views(stores, digests, views)
        if source.parts == 1:
            return found
        chosen = slice(source.part, None, source.parts)
        return Features(found.tokens[:, chosen], found.boxes[:, chosen], found.valid[:, chosen])


def _read_views(stores: Sequence[FeatureStore], digests: Sequence[str], views: Sequence[int] | None) -> Features:
    """Each image's features in its view, modulo how many there are."""
    if views is None or len(stores) == 1:
        return Features(*stores[0].read(digests, precision="stored"))
    rows: dict[int, list[int]] = {}
    for row, view in enumerate(views):
        rows.setdefault(view % len(stores), []).append(row)
    parts = [
        _read_views(stores[view : view + 1], [digests[row] for row in chosen], None) for view, chosen in rows.items()
    ]
    order = torch.tensor([row for chosen in rows.values() for row in chosen]).argsort()
    return Features(
        torch.cat([part.tokens for part in parts])[order],
        torch.cat([part.boxes for part in parts])[order],
        torch.cat([part.valid for part in parts])[order],
    )


def fill_stores(
    config: RunConfig,
    data: Mapping[str, TaskData],
    encoders: Mapping[str, Encoder],
    *,
    shard: Shard = Shard(),  # noqa: B008  an immutable value
    batch_size: BatchSize = USUAL,
    progress: Literal["bar", "none"] = "bar",
    wait: Callable[[], None] = lambda: None,
    together: int = 1,
    complete: Callable[[Callable[[], bool]], bool] = lambda ready: ready(),
) -> FeatureBank:
    """Extracts what is not stored yet, or this process's share of it; the bank knows the images that decode.

    What another process is extracting at the moment is waited for.

    Args:
        wait: called when this process's share is stored; returns when the others' are.
        together: how many processes `wait` waits for, this one included.
        complete: called with a question whether all features are there; returns its answer, or waits for a yes.

    Raises:
        StoreError: a minute after all shares are stored, this machine does not see them.
    """
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
        undecodable=config.undecodable,
        waits=True,
        digest_cache=Path(config.cache) / DIGESTS,
    )
    wait()

    def decodable() -> dict[Path, str]:
        broken = Undecodable(root).reasons() if config.undecodable == "exclude" else {}
        return {path: digest for path, digest in digests.items() if digest not in broken}

    def stored() -> bool:
        every = list(dict.fromkeys(decodable().values()))
        return not any(store.missing(every) for views in _stores(root, encoders).values() for store in views)

    if shard.count == together > 1:
        _await_sight(stored, root)
    elif shard.count > 1:
        complete(stored)
    stores, whole = _stores(root, encoders), decodable()
    return FeatureBank(stores, {key: whole[path] for key, path in named.items() if path in whole})


def _await_sight(stored: Callable[[], bool], root: Path) -> None:
    """Waits until this machine sees what others have stored. Raises StoreError."""
    deadline = time.monotonic() + SIGHT_SECONDS
    while not stored():
        if time.monotonic() > deadline:
            raise StoreError(
                f"{root} lacks features that other processes stored {SIGHT_SECONDS:.0f} s ago, as this machine sees it:"
                " name a folder that all machines share with --cache, or run the same command again"
            )
        time.sleep(SIGHT_SECONDS / 60)


def _stores(root: Path, encoders: Mapping[str, Encoder]) -> dict[str, list[FeatureStore]]:
    """One store a view of each encoder, as they are now."""
    return {
        alias: [FeatureStore(root, encoder.view(number)) for number in range(encoder.views)]
        for alias, encoder in encoders.items()
    }
