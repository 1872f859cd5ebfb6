"""Which task and which examples a step trains on.

Handed the training examples of each task; hands on one `Draw` a step. The steps' draws depend on the seed alone, so a
run that goes on at some step passes over the earlier ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from experiments.training.settings import TrainConfig
from tasks.base import Example


class Draw(NamedTuple):
    """One step: its number, counted from 1, its task and its examples."""

    step: int
    task: str
    examples: list[Example]


class _Pass:
    """Shuffled passes over the examples of one task, dealt out batch by batch.

    Args:
        lengths: of each example's text.
        bucket: batches that are dealt out together: their examples are sorted by length and cut, and the batches come
            in random order.
    """

    def __init__(self, lengths: Sequence[int], *, size: int, bucket: int) -> None:
        self._lengths = lengths
        self._size = size
        self._bucket = bucket
        self._order: list[int] = []
        self._batches: list[list[int]] = []

    def next(self, generator: torch.Generator) -> list[int]:
        if not self._batches:
            self._deal(generator)
        return self._batches.pop()

    def _deal(self, generator: torch.Generator) -> None:
        while len(self._order) < self._size:
            self._order.extend(torch.randperm(len(self._lengths), generator=generator).tolist())
        count = min(self._bucket, len(self._order) // self._size)
        window, self._order = self._order[: count * self._size], self._order[count * self._size :]
        if self._bucket == 1:
            self._batches = [window]
            return
        window.sort(key=lambda place: self._lengths[place])
        batches = [window[start : start + self._size] for start in range(0, len(window), self._size)]
        self._batches = [batches[k] for k in torch.randperm(count, generator=generator).tolist()]


class Sampler:
    """Shuffled passes over each task, tasks drawn by weight, where there are several.

    Args:
        data: training examples of each task.
        seed: decides every draw.
        together: tasks whose batches are not put together by length.
    """

    def __init__(
        self,
        data: Mapping[str, Sequence[Example]],
        config: TrainConfig,
        *,
        seed: int,
        together: Collection[str] = (),
    ) -> None:
        self._data = data
        self._tasks = list(data)
        self._weights = torch.tensor([config.weights.get(task, 1.0) if len(data) > 1 else 1.0 for task in data])
        self._generator = torch.Generator().manual_seed(seed)
        self._passes = {
            task: _Pass(
                [len(example.text.split()) for example in examples],
                size=config.batch_size,
                bucket=1 if task in together else config.bucket,
            )
            for task, examples in data.items()
        }

    def draws(self, *, after: int = 0, last: int) -> Iterator[Draw]:
        """The steps from the one after `after` to the last; a sampler is asked once."""
        for step in range(1, last + 1):
            task = self._tasks[int(torch.multinomial(self._weights, 1, generator=self._generator))]
            places = self._passes[task].next(self._generator)
            if step > after:
                yield Draw(step, task, [self._data[task][place] for place in places])
