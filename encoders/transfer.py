"""Copies between a GPU and memory that nobody waits for while there is other work.

On a GPU a pass only queues work. So the features of one batch are copied to pinned memory behind their computation,
and looked at when the next batch is queued: the GPU never waits for the processor to convert, check and collect. On a
processor there is nothing to overlap, and nothing is held back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


class Arriving(NamedTuple):
    """A tensor in memory, which is whole once `arrived` has happened."""

    tensor: Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> Tensor:
        """The tensor, as soon as it is whole."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensor


def start_to_memory(tensor: Tensor) -> Arriving:
    """Queues the copy of a GPU's tensor; one of another device is handed back as it is."""
    if not tensor.is_cuda:
        return Arriving(tensor, None)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(tensor.device))
    return Arriving(pinned, arrived)


def batches_behind() -> int:
    """How many batches are queued before the features of the first are looked at."""
    return 1 if torch.cuda.is_available() else 0


def delayed(items: Iterable[Item], *, by: int) -> Iterator[Item]:
    """The same items in order, each handed on once `by` further ones are made."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > by:
            yield waiting.popleft()
    yield from waiting
