"""A run's feature stores: how its processes fill them together, and what is said of stores beside those in use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from accelerate import Accelerator  # type: ignore[import-untyped]

from encoders.base import Encoder
from encoders.errors import StoreError
from encoders.extract import Shard, extract
from encoders.images import Undecodable
from encoders.memory import USUAL, BatchSize, fitting_batch
from encoders.store import FeatureStore
from experiments.bank import FeatureBank
from experiments.config import RunConfig
from experiments.data import PARTS, TaskData
from experiments.processes import Processes
from experiments.share import Share

DIGESTS = "digests"
"""Folder of the cache that remembers the digests of image files."""
SIGHT_SECONDS = 60.0
"""For so long a network file system may show a machine a folder as it was before another one wrote to it."""


def agreed_batch(encoders: Sequence[Encoder], *, processes: Processes, device: str) -> int:
    """Images a pass, as many as fit every process's memory: all must cut the images alike."""
    return min(processes.map(lambda _: fitting_batch(encoders, device=device), range(processes.count)))


def stock(
    config: RunConfig,
    data: Mapping[str, TaskData],
    encoders: Mapping[str, Encoder],
    *,
    accelerator: Accelerator,
    share: Share = Share(),  # noqa: B008  an immutable value
) -> FeatureBank:
    """The features of all images by these encoders; this share of them is extracted first, the others' waited for."""
    processes = Processes.of(accelerator)
    fitting = partial(agreed_batch, processes=processes, device=str(accelerator.device))
    return fill_stores(
        config,
        data,
        encoders,
        shard=share.shard.within(processes.index, processes.count),
        batch_size=fitting if share.whole else USUAL,  # other shares, which cannot be asked, must cut the images alike
        progress="bar" if accelerator.is_local_main_process and share.index == 0 else "none",
        wait=accelerator.wait_for_everyone,
        together=processes.count,
        complete=share.wait,
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


def sibling_lines(config: RunConfig, encoders: Mapping[str, Encoder]) -> list[str]:
    """Which stores hold the same encoder under other settings or weights, and are not used."""
    root = Path(config.cache) / "features"
    views = {
        alias: [FeatureStore(root, encoder.view(number)) for number in range(encoder.views)]
        for alias, encoder in encoders.items()
    }
    own = {store.folder for stores in views.values() for store in stores}
    said = {
        folder: f"note: {problem}; it is not used for {alias}"
        for alias, stores in views.items()
        for folder, problem in stores[0].siblings()
        if folder not in own
    }
    return list(said.values())
