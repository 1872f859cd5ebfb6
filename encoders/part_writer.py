"""What an encoder gives for batch after batch, collected to parts that are written behind the encoders.

Handed features in the order of a block's images; hands them on to the encoder's store. Of each store a process has one
part that it collects and one that is being written at most: a kill loses no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from encoders.base import Encoder
from encoders.plan import Plan
from encoders.store import FeatureStore
from encoders.transfer import Arriving


class PartWriter:
    """Collects one encoder's features, and knows which images of a block it lacks."""

    def __init__(self, encoder: Encoder, store: FeatureStore, plan: Plan) -> None:
        self.encoder, self.store = encoder, store
        self.lacking: set[str] = set()
        self._plan, self._size = plan, plan.part_size(store)
        self._writing: Future[Path] | None = None
        self._empty()

    def add(self, digests: Sequence[str], tokens: Tensor, lengths: NDArray[Any], boxes: Tensor | None = None) -> None:
        """Takes a batch: tokens of equal length of each image, or rows of all with their lengths."""
        self._digests += digests
        self._chunks.append(self.store.encode(tokens.reshape(-1, tokens.shape[-1])))
        self._lengths.append(lengths)
        if boxes is not None:
            self._boxes.append(boxes.numpy().astype("<f4"))

    def is_full(self, end: int) -> bool:
        """Whether a part ends where `end` images of the block are done."""
        return end % self._size == 0

    def write(self, disk: ThreadPoolExecutor) -> None:
        """Hands a part over to be written, once the one before is on disk, so that a kill never loses more."""
        if not self._digests:
            return
        self.settle()
        lengths = np.concatenate(self._lengths).astype("<i4")
        boxes = np.concatenate(self._boxes) if self._boxes else None
        digests, chunks = self._digests, self._chunks
        self._empty()
        self._writing = disk.submit(
            self.store.write_encoded, digests, chunks, lengths, boxes=boxes, plan=self._plan.name
        )

    def settle(self, *, wait: bool = True) -> None:
        """Raises what a write failed of, as soon as that is known."""
        if self._writing is not None and (wait or self._writing.done()):
            self._writing.result()
            self._writing = None

    def _empty(self) -> None:
        self._digests: list[str] = []
        self._chunks: list[NDArray[Any]] = []
        self._lengths: list[NDArray[Any]] = []
        self._boxes: list[NDArray[np.float32]] = []


class BatchFeatures(NamedTuple):
    """What one encoder gave for the images of a batch; on a GPU it may still be computing."""

    writer: PartWriter
    digests: Sequence[str]
    tokens: Arriving
    lengths: NDArray[Any]
    boxes: Tensor | None = None

    def collect(self) -> None:
        """Hands them to their writer, as soon as they are computed."""
        self.writer.add(self.digests, self.tokens.wait(), self.lengths, self.boxes)
