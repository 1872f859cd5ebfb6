"""Decodes images ahead of the encoders, once for all of them, in threads.

Handed jobs in order, each the images of one batch; hands on their pixels in the same order. While encoders work on
one batch, the threads fill the next, image by image, straight into its tensors (pinned where there is a GPU).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from encoders.errors import ImageError
from encoders.images import decode
from encoders.plan import Block
from encoders.preprocess import Preprocess

AHEAD = 3
"""Batches in work or waiting: enough that no thread waits for the slowest image of a batch."""


@dataclass(frozen=True, slots=True)
class Job:
    """One batch of a block.

    Attributes:
        end: how many images of the block are done with this batch.
        digests: the batch's images that an encoder lacks.
        preprocesses: what the encoders that compute on pixels ask for.
        last: whether the block is done with this batch.
    """

    block: Block
    end: int
    digests: tuple[str, ...]
    preprocesses: tuple[Preprocess, ...]
    last: bool = False


@dataclass(frozen=True, slots=True)
class Decoded:
    """A job's images that could be decoded: a stack for each distinct preprocessing; and what became of the others."""

    job: Job
    digests: tuple[str, ...]
    pixels: Mapping[Preprocess, Float[Tensor, "b 3 h w"]]
    failures: Mapping[str, ImageError] = field(default_factory=dict)


def decoded(jobs: Iterable[Job], files: Mapping[str, Path], pool: Executor) -> Iterator[Decoded]:
    """Each job's pixels, in order, `AHEAD` jobs in work."""
    waiting: deque[tuple[Job, dict[Preprocess, Tensor], list[Future[ImageError | None]]]] = deque()
    for job in jobs:
        stacks = {preprocess: _empty(len(job.digests), preprocess) for preprocess in job.preprocesses}
        started = [
            pool.submit(_decode, files[digest], digest, stacks, row)
            for row, digest in enumerate(job.digests)
            if job.preprocesses
        ]
        waiting.append((job, stacks, started))
        if len(waiting) >= AHEAD:
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def _empty(count: int, preprocess: Preprocess) -> Float[Tensor, "b 3 h w"]:
    height, width = preprocess.output
    return torch.empty(count, 3, height, width, pin_memory=torch.cuda.is_available())


def _decode(path: Path, digest: str, stacks: Mapping[Preprocess, Tensor], row: int) -> ImageError | None:
    try:
        decode(path, digest, list(stacks), [stack[row] for stack in stacks.values()])
    except ImageError as error:
        return error
    return None


def _finished(job: Job, stacks: Mapping[Preprocess, Tensor], started: Sequence[Future[ImageError | None]]) -> Decoded:
    results = [future.result() for future in started] or [None] * len(job.digests)
    failures = {digest: error for digest, error in zip(job.digests, results, strict=True) if error is not None}
    if not failures:
        return Decoded(job, job.digests, stacks)
    good = [row for row, error in enumerate(results) if error is None]
    kept = tuple(job.digests[row] for row in good)
    return Decoded(job, kept, {preprocess: stack[good] for preprocess, stack in stacks.items()}, failures)
