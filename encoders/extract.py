"""Fills feature stores: image files and encoders in, complete parts on disk out, and each file's digest.

Every image is decoded once for all encoders that lack it; encoders that share a model share its pass. Writing runs
behind the encoders and, beside a GPU, decoding ahead of them. What is computed in which batch is fixed by
`encoders.plan`, so the same call gives the same bytes however often it was killed, and several processes share it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from encoders.base import Encoder, FileEncoder
from encoders.decoding import Decoded, Job, decoded
from encoders.digests import digest_all
from encoders.durable import LOCK, HeldError, WriterLock, sweep
from encoders.errors import EncoderError, ImageError, StoreError, UndecodableError
from encoders.images import Undecodable, find_problems, image_digest, whole_files_only
from encoders.memory import USUAL, BatchSize
from encoders.module import tokens_together
from encoders.part_writer import BatchFeatures, PartWriter
from encoders.plan import PART_IMAGES, Block, Plan, Shard
from encoders.processors import decoding_pool, decoding_threads
from encoders.space import require_space, rooms
from encoders.store import FeatureStore, StoreMeta
from encoders.transfer import Arriving, batches_behind, delayed, place_of, start_to_memory

__all__ = ["Shard", "extract", "image_digest"]

INDEX_EVERY = 64
"""Parts that are completed before the index is written again."""


def extract(
    images: Sequence[Path],
    encoders: Sequence[Encoder],
    *,
    root: Path,
    batch_size: BatchSize = USUAL,
    progress: Literal["bar", "none"] = "bar",
    workers: int | None = None,
    shard: Shard = Shard(),  # noqa: B008  an immutable value
    undecodable: Literal["refuse", "exclude"] = "refuse",
    part_images: int = PART_IMAGES,
    waits: bool = False,
    digest_cache: Path | None = None,
) -> dict[Path, str]:
    """Makes sure that the features of all images by all encoders are stored under `root`.

    Args:
        images: files; those of equal bytes share one entry.
        encoders: two of one name and fingerprint share one store; each view of an encoder has its own.
        batch_size: images a forward pass; or what tells it, called once with the encoders that lack features.
        progress: on standard error what there is to store and room for, and a bar with rate and time left, or
            none; nothing is shown when nothing is to do.
        workers: decoding threads; by default this process's share of the processors (`encoders.processors`).
        shard: the share of this process, where several divide the work.
        undecodable: refuse images that cannot be decoded, or leave them out and put them on record under `root`.
        part_images: images a part, at most.
        waits: for another process that is extending a store with the same images, rather than to refuse that.
        digest_cache: a folder that remembers the digests of files that stay as they are; else every file is read.

    Returns:
        Each file's digest, the key of its features; files that were left out are absent.

    Raises:
        ImageError: files are missing, no images, or cut short; all are named. Files that are plainly broken
            are found before anything is computed. Where damage shows only in decoding, the others' features
            are still stored.
        StoreError: a store is torn, altered, cannot be written, or is being written by another process; or the disk
            has no room for what all processes together are to store.
        EncoderError: the batch does not fit the GPU's memory.
    """
    workers = workers or decoding_threads()
    distinct = {StoreMeta.of(each).folder: each for one in encoders for each in _views(one)}
    with whole_files_only(), decoding_pool(workers) as pool:
        share = shard.index, shard.count
        digests = digest_all(images, pool, cache=digest_cache, share=share, progress=progress)
        files = {digest: path for path, digest in reversed(digests.items())}
        stores = _open_stores(root, list(distinct.values()))
        every, record = list(dict.fromkeys(digests.values())), Undecodable(root)
        excluded = set(record.reasons()) & set(files) if undecodable == "exclude" else set[str]()
        missing = [set(store.missing(every)) - excluded for store in stores]
        label = " ".join(dict.fromkeys(encoder.alias for encoder in encoders))
        _look_at_space(stores, missing, label=label, progress=progress)
        if not isinstance(batch_size, int):
            batch_size = batch_size([e for e, lacking in zip(distinct.values(), missing, strict=True) if lacking])
        plan = Plan.of(every, stores, batch_size=batch_size, part_images=part_images, shard=shard)
        work = _Extraction(plan, list(distinct.values()), stores, files, record, undecodable, excluded, waits=waits)
        jobs = work.jobs(plan.blocks)
        work.look_ahead(find_problems([files[d] for job in jobs if job.preprocesses for d in job.digests], pool))
        jobs = work.jobs(plan.blocks)
        total = sum(len(job.digests) for job in jobs)
        with tqdm(total=total, unit="img", desc=f"features {label}", disable=progress == "none" or not total) as bar:
            for batch in work.run(jobs, pool):
                bar.update(len(batch.job.digests))
    if work.problems:
        raise ImageError(work.problems)
    return {path: digest for path, digest in digests.items() if digest not in work.excluded}


class _Extraction:
    """One process's work on a plan.

    Attributes:
        problems: path -> why its features could not be computed.
        excluded: digests that are left out, as they are on record as undecodable.
    """

    def __init__(
        self,
        plan: Plan,
        encoders: Sequence[Encoder],
        stores: Sequence[FeatureStore],
        files: Mapping[str, Path],
        record: Undecodable,
        undecodable: Literal["refuse", "exclude"],
        excluded: set[str],
        *,
        waits: bool,
    ) -> None:
        self._waits, self._place = waits, place_of(encoders)
        self.problems: dict[str, str] = {}
        self.excluded = excluded
        self._plan, self._files, self._record, self._undecodable = plan, files, record, undecodable
        self._writers = [PartWriter(*pair, plan) for pair in zip(encoders, stores, strict=True)]
        self._locks: dict[int, list[WriterLock]] = {}

    def jobs(self, blocks: Sequence[Block]) -> list[Job]:
        """The batches of these blocks in which an encoder lacks an image."""
        found = []
        for block in blocks:
            writers = [self._writers[position] for position in block.stores]
            lacking = {d for writer in writers for d in writer.store.missing(block.digests)} - self.excluded
            pixels = dict.fromkeys(w.encoder.preprocess for w in writers if w.encoder.reads == "pixels")
            own: list[Job] = []
            for start in range(0, len(block.digests), self._plan.batch_size):
                chunk = block.digests[start : start + self._plan.batch_size]
                wanted = tuple(digest for digest in chunk if digest in lacking)
                if wanted:
                    own.append(Job(block, start + len(chunk), wanted, tuple(pixels)))
            found += [*own[:-1], *(replace(job, last=True) for job in own[-1:])]
        return found

    def look_ahead(self, problems: Mapping[Path, str]) -> None:
        """Refuses, or puts on record, what is known not to decode before anything is computed."""
        if problems and self._undecodable == "refuse":
            raise ImageError({str(path): why for path, why in problems.items()})
        digests = {path: digest for digest, path in self._files.items()}
        for path, why in problems.items():
            self._leave_out(digests[path], why)

    def run(self, jobs: Sequence[Job], pool: ThreadPoolExecutor) -> Iterator[Decoded]:
        """Computes and stores; yields each batch when it is done."""
        if not jobs:
            self._finish(written=False)
            return
        for position in sorted({position for job in jobs for position in job.block.stores}):
            self._writers[position].store.prepare()
        disk = ThreadPoolExecutor(1)
        try:
            for batch, found in delayed(self._computed(jobs, pool), by=batches_behind(self._place)):
                for features in found:
                    features.collect()
                self._write(batch.job, disk)
                yield batch
            for writer in self._writers:
                writer.settle()
            disk.shutdown()
        finally:
            disk.shutdown(cancel_futures=True)
            _release([lock for locks in self._locks.values() for lock in locks])
        self._finish(written=True)

    def _computed(
        self, jobs: Sequence[Job], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Decoded, Sequence[BatchFeatures]]]:
        """Each batch with its features, which a GPU may still be computing."""
        block: Block | None = None
        try:
            for batch in decoded(jobs, self._files, pool, place=self._place):
                if batch.job.block is not block:
                    block = batch.job.block
                    self._begin(block)
                self._note(batch)
                yield batch, self._compute(batch)
        except torch.OutOfMemoryError as error:
            size, names = self._plan.batch_size, ", ".join(writer.encoder.alias for writer in self._writers)
            fewer = f"python -m experiments.extract --batch-size {size // 2} takes half as many and goes on from here"
            remedy = fewer if size > 1 else "dtype=bf16 takes half of it"
            raise EncoderError(f"{size} images a pass of {names} do not fit the GPU's memory: {remedy}") from error

    def _begin(self, block: Block) -> None:
        """Takes the block, and sees what is still lacking: another process may have completed it meanwhile.

        Blocks are taken in the order of their first images, and a block's stores in that of their folders: processes
        that wait for one another never do so in a circle.
        """
        for position in sorted(block.stores, key=lambda position: self._writers[position].store.folder):
            writer = self._writers[position]
            lock = WriterLock(writer.store.folder / f"{LOCK}{self._plan.name}-{block.digests[0][:16]}")
            self._acquire(lock)
            self._locks.setdefault(block.number, []).append(lock)
            part_list = writer.store.part_list
            part_list.refresh()
            if part_list.num_unindexed >= INDEX_EVERY:
                part_list.write_index()
            writer.lacking = set(writer.store.missing(block.digests))

    def _acquire(self, lock: WriterLock) -> None:
        try:
            lock.acquire()
        except HeldError as error:
            if not self._waits:
                raise
            tqdm.write(str(error).partition(": wait for it")[0] + ": waiting for it", file=sys.stderr)
            lock.acquire(patience=math.inf)

    def _note(self, batch: Decoded) -> None:
        for digest, error in batch.failures.items():
            if self._undecodable == "exclude" and isinstance(error, UndecodableError):
                self._leave_out(digest, *error.problems.values())
            else:
                self.problems |= error.problems

    def _leave_out(self, digest: str, why: str) -> None:
        path = self._files[digest]
        self._record.record(digest, path, why.removeprefix(f"{path}: "))
        self.excluded.add(digest)

    def _compute(self, batch: Decoded) -> list[BatchFeatures]:
        """Features of the images that each encoder lacks; encoders that lack the same share a pass."""
        computed: list[BatchFeatures] = []
        together: dict[tuple[Any, tuple[int, ...]], list[PartWriter]] = {}
        for position in batch.job.block.stores:
            writer = self._writers[position]
            rows = tuple(row for row, digest in enumerate(batch.digests) if digest in writer.lacking)
            if not rows:
                continue
            if isinstance(writer.encoder, FileEncoder):
                digests = [batch.digests[row] for row in rows]
                found = writer.encoder.rows([self._files[digest] for digest in digests])
                rows_of = Arriving(found.tokens, None)
                computed.append(BatchFeatures(writer, digests, rows_of, found.lengths.numpy(), found.boxes))
            else:
                together.setdefault((writer.encoder.preprocess, rows), []).append(writer)
        for (preprocess, rows), writers in together.items():
            pixels = batch.pixels[preprocess]
            digests = [batch.digests[row] for row in rows]
            chosen = pixels if len(rows) == len(pixels) else pixels[list(rows)]
            tokens = tokens_together([writer.encoder for writer in writers], chosen)
            for writer, own in zip(writers, tokens, strict=True):
                lengths = np.full(len(rows), own.shape[1])
                computed.append(BatchFeatures(writer, digests, start_to_memory(own), lengths))
        return computed

    def _write(self, job: Job, disk: ThreadPoolExecutor) -> None:
        """Hands over the parts that end with this batch; after its last one a block is given back, once on disk."""
        for position in job.block.stores:
            self._writers[position].settle(wait=False)
            if self._writers[position].is_full(job.end) or job.last:
                self._writers[position].write(disk)
        if job.last:
            disk.submit(_release, self._locks[job.block.number])

    def _finish(self, *, written: bool) -> None:
        """Brings the indexes up to date; a store that cannot be written, and lacks nothing, is left as it is."""
        for store in (writer.store for writer in self._writers):
            store.part_list.refresh()
            try:
                sweep(store.folder)
                if store.part_list.num_unindexed:
                    store.part_list.write_index()
            except (StoreError, OSError) as error:
                if written:
                    raise StoreError(f"cannot write the feature store {store.folder}: {error}") from error


def _open_stores(root: Path, encoders: Sequence[Encoder]) -> list[FeatureStore]:
    """A store for each; a torn part is found before hours of work, and not only when it is first read."""
    stores = [FeatureStore(root, encoder) for encoder in encoders]
    for store in stores:
        store.part_list.check_sizes()
    return stores


def _look_at_space(
    stores: Sequence[FeatureStore], missing: Sequence[set[str]], *, label: str, progress: Literal["bar", "none"]
) -> None:
    """Says what all processes together are to store, and refuses what the disk has no room for. Raises StoreError."""
    found = rooms([(store, len(lacking)) for store, lacking in zip(stores, missing, strict=True) if lacking])
    require_space(found)
    if progress == "bar":
        for room in found:
            tqdm.write(f"features {label}: {len(set[str]().union(*missing)):,} images, {room}", file=sys.stderr)


def _release(locks: Sequence[WriterLock]) -> None:
    for lock in locks:
        lock.release()


def _views(encoder: Encoder) -> list[Encoder]:
    return [encoder.view(number) for number in range(encoder.views)]
