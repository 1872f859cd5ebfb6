"""A run's feature stores: how its processes fill them together, and what is said of stores beside those in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator  # type: ignore[import-untyped]

from encoders.base import Encoder
from encoders.memory import USUAL, fitting_batch
from encoders.store import FeatureStore
from experiments.config import RunConfig
from experiments.data import FeatureBank, TaskData, fill_stores
from experiments.processes import Processes
from experiments.share import Share


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
