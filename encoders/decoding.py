"""Decodes images ahead of the encoders, once for all of them, in threads.

Handed jobs in order, each the images of one batch; hands on their pixels in the same order. The threads fill a batch
image by image, straight into its tensors: where encoders compute on a GPU in pinned memory, while they work on the
batch before; on processors in turn with them, for there the two would wait for one another.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
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
from encoders.transfer import Place

AHEAD = 3
"""Batches in work or waiting beside a GPU: enough that no thread waits for the slowest image of a batch."""
ANNOUNCED = 2
"""Batches whose files the system is asked for ahead of their decoding."""


def batches_ahead(place: Place) -> int:
    """Batches in work or waiting, by where the encoders compute.

    On processors one: a model's threads wait for the slowest of them, and one that shares its core with decoding makes
    all others wait, which costs twice what the overlap gives (measured in LOG.md).
    """
    return AHEAD if place == "gpu" else 1


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


def decoded(jobs: Sequence[Job], files: Mapping[str, Path], pool: Executor, *, place: Place) -> Iterator[Decoded]:
    """Each job's pixels, in order, `batches_ahead` jobs in work; beside a GPU in pinned memory."""
    ahead = batches_ahead(place)
    waiting: deque[tuple[Job, dict[Preprocess, Tensor], list[Future[ImageError | None]]]] = deque()
    for number, job in enumerate(jobs):
        stacks = {preprocess: _empty(len(job.digests), preprocess, place) for preprocess in job.preprocesses}
        started = [
            pool.submit(_decode, files[digest], digest, stacks, row)
            for row, digest in enumerate(job.digests)
            if job.preprocesses
        ]
        waiting.append((job, stacks, started))
        for later in jobs[number + ANNOUNCED : number + ANNOUNCED + 1]:
            pool.submit(_announce, [files[digest] for digest in later.digests])
        if len(waiting) >= ahead:
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def _announce(paths: Sequence[Path]) -> None:
    """Asks the system to read files that are needed soon, where it takes such advice; what fails shows in decoding."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        try:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        except OSError:
            continue


def _empty(count: int, preprocess: Preprocess, place: Place) -> Float[Tensor, "b 3 h w"]:
    height, width = preprocess.output
    return torch.empty(count, 3, height, width, pin_memory=place == "gpu")


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
