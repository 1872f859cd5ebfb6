"""Fills feature stores: image files and encoders in, complete parts on disk out, and each file's digest.

Every image is read and decoded once for all encoders that still need it, in threads that run ahead of the
encoders. The batches are fixed by the order of the images, so the same call gives the same bytes. What is
stored is never computed again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from encoders.base import Encoder
from encoders.errors import ImageError
from encoders.images import check_all, decode, digest_all, image_digest, whole_files_only
from encoders.preprocess import Preprocess
from encoders.store import FeatureStore

__all__ = ["extract", "image_digest"]

PART_BYTES = 128 * 2**20
"""About how large a part becomes; always a whole number of batches."""


class _Batch(NamedTuple):
    """Images decoded for several encoders: a stack for each distinct preprocessing, no failed images."""

    digests: list[str]
    pixels: dict[Preprocess, Float[Tensor, "b 3 h w"]]
    problems: dict[str, str]


class _Writer:
    """Collects one encoder's batches and writes them out a part at a time."""

    def __init__(self, encoder: Encoder, store: FeatureStore, *, batch_size: int) -> None:
        self.encoder = encoder
        self._store = store
        self._limit = max(1, PART_BYTES // (store.bytes_per_image * batch_size)) * batch_size
        self._digests: list[str] = []
        self._tokens: list[Tensor] = []

    def add(self, batch: _Batch) -> None:
        tokens = self.encoder.tokens(batch.pixels[self.encoder.preprocess])
        self._tokens.append(tokens.cpu())
        self._digests += batch.digests
        if len(self._digests) >= self._limit:
            self.flush()

    def flush(self) -> None:
        if self._digests:
            self._store.write_part(self._digests, torch.cat(self._tokens))
            self._digests, self._tokens = [], []


def extract(
    images: Sequence[Path],
    encoders: Sequence[Encoder],
    *,
    root: Path,
    batch_size: int = 64,
    progress: Literal["bar", "none"] = "bar",
    workers: int | None = None,
) -> dict[Path, str]:
    """Makes sure that the features of all images by all encoders are stored under `root`.

    Args:
        images: files; those of equal bytes share one entry.
        encoders: two with one fingerprint share one store.
        batch_size: images a forward pass.
        progress: a bar with rate and time left on standard error, or none; nothing is shown when nothing is
            to do.
        workers: decoding threads; by default one a core, at most 8.

    Returns:
        Each file's digest, the key of its features.

    Raises:
        ImageError: files are missing, no images, or cut short; all are named. Files that are plainly broken
            are found before anything is computed. Where damage shows only in decoding, the others' features
            are still stored.
        StoreError: a store is torn, altered, or cannot be written.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    with whole_files_only(), ThreadPoolExecutor(workers) as pool:
        digests = digest_all(images, pool)
        files = {digest: path for path, digest in reversed(digests.items())}
        todo = _plan(list(dict.fromkeys(digests.values())), encoders, root)
        check_all([files[digest] for wanted in todo.values() for digest in wanted], pool)
        total = sum(map(len, todo.values()))
        label = " ".join(dict.fromkeys(encoder.alias for encoder in encoders))
        problems: dict[str, str] = {}
        with tqdm(total=total, unit="img", desc=f"features {label}", disable=progress == "none" or not total) as bar:
            for needing, wanted in todo.items():
                jobs = [(files[digest], digest) for digest in wanted]
                writers = [
                    _Writer(encoders[i], FeatureStore(root, encoders[i]), batch_size=batch_size) for i in needing
                ]
                for batch in _batches(jobs, writers, pool, batch_size=batch_size, ahead=2 * workers):
                    problems |= batch.problems
                    if batch.digests:
                        for writer in writers:
                            writer.add(batch)
                    bar.update(len(batch.digests) + len(batch.problems))
                for writer in writers:
                    writer.flush()
    if problems:
        raise ImageError(problems)
    return digests


def _plan(digests: Sequence[str], encoders: Sequence[Encoder], root: Path) -> dict[tuple[int, ...], list[str]]:
    """Positions of the encoders that lack an image -> those images, in order; they share their batches."""
    first: dict[str, int] = {}
    for position, encoder in enumerate(encoders):
        first.setdefault(encoder.fingerprint, position)
    lacking: dict[str, list[int]] = {}
    for position in first.values():
        for digest in FeatureStore(root, encoders[position]).missing(digests):
            lacking.setdefault(digest, []).append(position)
    plan: dict[tuple[int, ...], list[str]] = {}
    for digest in digests:
        if digest in lacking:
            plan.setdefault(tuple(lacking[digest]), []).append(digest)
    return plan


def _batches(
    jobs: Sequence[tuple[Path, str]],
    writers: Sequence[_Writer],
    pool: ThreadPoolExecutor,
    *,
    batch_size: int,
    ahead: int,
) -> Iterator[_Batch]:
    """Decoded batches in order, with at most `ahead` batches in work or waiting."""
    preprocesses = list(dict.fromkeys(writer.encoder.preprocess for writer in writers))
    chunks = (jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size))
    waiting: deque[Future[_Batch]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(_decode_batch, chunk, preprocesses))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _decode_batch(jobs: Sequence[tuple[Path, str]], preprocesses: Sequence[Preprocess]) -> _Batch:
    digests, images = [], []
    problems: dict[str, str] = {}
    for path, digest in jobs:
        try:
            images.append(decode(path, digest, preprocesses))
            digests.append(digest)
        except ImageError as error:
            problems |= error.problems
    stacks = [torch.stack(list(planes)) for planes in zip(*images, strict=True)]
    return _Batch(digests, dict(zip(preprocesses, stacks, strict=False)), problems)
