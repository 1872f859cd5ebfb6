"""What a command's processes agree on before they extract, and what they say of stores beside those in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from encoders.base import Encoder
from encoders.memory import fitting_batch
from encoders.store import FeatureStore
from experiments.config import RunConfig
from experiments.processes import Processes


def agreed_batch(encoders: Sequence[Encoder], *, processes: Processes, device: str) -> int:
    """Images a pass, as many as fit every process's memory: all must cut the images alike."""
    return min(processes.map(lambda _: fitting_batch(encoders, device=device), range(processes.count)))


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
