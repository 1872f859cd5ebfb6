"""Copies between a GPU and memory that nobody waits for while there is other work.

On a GPU a pass only queues work. So the features of one batch are rounded to the precision that they are stored in and
copied to pinned memory behind their computation, and looked at when the next batch is queued: the GPU never waits for
the processor to check and collect. On a processor there is nothing to overlap, and nothing is held back. Where the
encoders' weights are says which of the two it is: a GPU that no encoder uses is never touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from encoders.base import Encoder

Item = TypeVar("Item")
Place = Literal["processor", "gpu"]
"""What an extraction computes on."""
PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}


class Arriving(NamedTuple):
    """A tensor in memory, which is whole once `arrived` has happened."""

    tensor: Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> Tensor:
        """The tensor, as soon as it is whole, in memory that is not pinned: a part is collected of many.

        The thread sleeps until then, so that decoding has its core.
        """
        if self.arrived is None:
            return self.tensor
        self.arrived.synchronize()
        return self.tensor.clone()


def place_of(encoders: Iterable[Encoder]) -> Place:
    """`gpu` where one of these encoders has weights there."""
    weights = (tensor for encoder in encoders if encoder.reads == "pixels" for tensor in encoder.weights().values())
    return "gpu" if any(tensor.is_cuda for tensor in weights) else "processor"


def as_stored(tokens: Tensor, *, dtype: str) -> Tensor:
    """Tokens of a GPU in the precision that they are stored in (`fp16`, `fp32`, `bf16`), so that no more is copied.

    Rounding is to the nearest on every device, so the stored bytes are those of rounding in memory. A processor's own
    tokens are handed back as they are: the store rounds them.
    """
    return tokens if tokens.device.type == "cpu" else tokens.to(PRECISIONS.get(dtype, tokens.dtype))


def start_to_memory(tensor: Tensor) -> Arriving:
    """Queues the copy of a GPU's tensor; one of another device is handed back as it is."""
    if not tensor.is_cuda:
        return Arriving(tensor, None)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    arrived: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(tensor.device))
    return Arriving(pinned, arrived)


def batches_behind(place: Place) -> int:
    """How many batches are queued before the features of the first are looked at."""
    return 1 if place == "gpu" else 0


def delayed(items: Iterable[Item], *, by: int) -> Iterator[Item]:
    """The same items in order, each handed on once `by` further ones are made."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > by:
            yield waiting.popleft()
    yield from waiting
