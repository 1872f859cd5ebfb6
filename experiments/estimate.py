"""What an extraction will take, before it starts: bytes, hours, and the price of each pooling choice.

Handed encoders and image files; hands on lines to print. Sizes are exact but for the parts' tables; the time is
measured on a few of the images. Where a store holds features already, the images are read for their digests, which are
remembered for the extraction.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from encoders.base import Encoder
from encoders.digests import digest_all
from encoders.images import FAILURES, loaded
from encoders.module import tokens_together
from encoders.processors import decoding_threads
from encoders.space import gigabytes, rooms
from encoders.store import FeatureStore
from experiments.stores import DIGESTS

POOLS = ((14, 14), (7, 7), (4, 4), (2, 2), (1, 1))
SAMPLE = 16
"""Images whose decoding and encoding is timed; few, as one pass of a large encoder takes seconds."""
WORKERS = decoding_threads()
"""Decoding threads of a process."""


class Choice(NamedTuple):
    """One pooling of an encoder's grid."""

    pool: str
    tokens: int
    bytes_per_image: int


class Pace(NamedTuple):
    """Seconds an image."""

    decoding: float
    encoding: float


def choices(store: FeatureStore) -> list[Choice]:
    """The encoder as it is named, and each smaller grid."""
    meta = store.meta
    if not meta.boxes:
        return [Choice("regions, at most", meta.grid[0] * meta.grid[1], store.bytes_per_image)]
    rows, columns = meta.grid
    value = store.bytes_per_image // (len(meta.boxes) * meta.width)
    cells = rows * columns
    others = len(meta.boxes) % cells if cells else 0
    grids = (len(meta.boxes) - others) // cells
    found = [Choice(f"{rows}x{columns}", len(meta.boxes), store.bytes_per_image)]
    for height, width in POOLS:
        if height * width < cells and height <= rows and width <= columns:
            tokens = others + grids * height * width
            found.append(Choice(f"{height}x{width}", tokens, tokens * meta.width * value))
    return found


def pace(encoders: Sequence[Encoder], images: Sequence[Path]) -> Pace:
    """Measured on `SAMPLE` of the images: decoding by all threads for all encoders, then all encoders in turn."""
    pixel = [encoder for encoder in encoders if encoder.reads == "pixels"]
    preprocesses = list(dict.fromkeys(encoder.preprocess for encoder in pixel))
    sample = [images[place * len(images) // SAMPLE] for place in range(SAMPLE)] if images else []
    if not sample or not pixel:
        return Pace(0.0, 0.0)

    def planes(path: Path) -> list[torch.Tensor] | None:
        try:
            image = loaded(path, path.read_bytes())
            return [preprocess(image) for preprocess in preprocesses]
        except FAILURES:  # the extraction says what is wrong with it
            return None

    with ThreadPoolExecutor(WORKERS) as pool:
        started = time.perf_counter()
        decoded = [found for found in pool.map(planes, sample) if found is not None]
        decoding = time.perf_counter() - started
    if not decoded:
        return Pace(0.0, 0.0)
    stacks = {p: torch.stack(list(column)) for p, column in zip(preprocesses, zip(*decoded, strict=True), strict=True)}
    encoding = 0.0
    for preprocess, stack in stacks.items():
        members = [encoder for encoder in pixel if encoder.preprocess == preprocess]
        tokens_together(members, stack[:2])  # the first call allocates, and compiles where that is asked for
        started = time.perf_counter()
        for tokens in tokens_together(members, stack):
            tokens.cpu()
        encoding += time.perf_counter() - started
    return Pace(decoding / len(decoded), encoding / len(decoded))


def estimate(
    encoders: Mapping[str, Encoder],
    images: Sequence[Path],
    *,
    root: Path,
    processes: int = 1,
    here: int = 1,
) -> list[str]:
    """Lines that say what storing these images will take.

    Args:
        processes: that share the work.
        here: how many of those are on each machine, and share its cores.
    """
    views = {alias: [encoder.view(number) for number in range(encoder.views)] for alias, encoder in encoders.items()}
    stores = {alias: [FeatureStore(root, view) for view in own] for alias, own in views.items()}
    asked = distinct_images(images, [store for own in stores.values() for store in own], root.with_name(DIGESTS))
    lacking = {alias: [len(images_lacking(store, asked)) for store in own] for alias, own in stores.items()}
    computing = [
        view
        for alias, own in views.items()
        for view, count in zip(own, lacking[alias], strict=True)
        if count and view.reads == "pixels"
    ]
    lines = [f"{len(images):,} image files, {len(stores)} encoders", *size_lines(stores, lacking, len(asked)), ""]
    if not any(count for own in lacking.values() for count in own):
        return [*lines, "time: none, all is stored"]
    measured = pace(computing, images)
    on_gpu = any(tensor.is_cuda for encoder in computing for tensor in encoder.weights().values())
    num_images = max(count for own in lacking.values() for count in own)
    hours = seconds_an_image(measured, here=here, on_gpu=on_gpu) * num_images / 3600 / max(1, processes // here)
    share = f"{processes} processes like this one" if processes > 1 else "one process"
    shared = f", {here} of them on each machine's" if here > 1 else " on"
    lines.append(
        f"time: about {hours:.2g} h of {num_images:,} images for {share}{shared} {os.cpu_count() or 1} cores"
        f" ({1000 * measured.encoding:.1f} ms an image to encode, {1000 * measured.decoding:.1f} to decode;"
        f" measured on {SAMPLE} images)"
    )
    return lines


def seconds_an_image(measured: Pace, *, here: int, on_gpu: bool) -> float:
    """Of a machine on which so many processes work at the pace that one was measured at.

    They have the machine's cores together, of which the one used its own threads. On a CPU it decodes and encodes in
    turn; on a GPU of its own it encodes while it decodes.
    """
    cores = os.cpu_count() or 1
    if on_gpu:
        cards = min(here, torch.cuda.device_count())
        return max(measured.encoding / max(1, cards), measured.decoding / min(here, max(1.0, cores / WORKERS)))
    return sum(measured) / min(here, max(1.0, cores / torch.get_num_threads()))


def distinct_images(images: Sequence[Path], stores: Iterable[FeatureStore], cache: Path) -> Sequence[str]:
    """The digest of each distinct image where a store has some; else nothing is read, and each file counts as one.

    Raises:
        ImageError: files cannot be read.
    """
    if not any(map(len, stores)):
        return [str(image) for image in images]
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(dict.fromkeys(digest_all(images, pool, cache=cache, progress="bar").values()))


def images_lacking(store: FeatureStore, asked: Sequence[str]) -> Sequence[str]:
    """Those of the distinct images that are not stored yet."""
    return store.missing(asked) if len(store) else asked


def size_lines(
    stores: Mapping[str, Sequence[FeatureStore]], lacking: Mapping[str, Sequence[int]], num_images: int
) -> list[str]:
    """The table of sizes, with the room that is left.

    Args:
        stores: one for each view of an encoder.
        lacking: how many of the images each of these lacks.
        num_images: distinct ones that are asked for.
    """
    lines, total = [], 0
    width = max(len(alias) for alias in stores)
    for alias, views in stores.items():
        total += views[0].bytes_per_image * num_images * len(views)
        stored = num_images - max(lacking[alias])
        for number, choice in enumerate(choices(views[0])):
            size = gigabytes(choice.bytes_per_image * num_images * len(views))
            mark = f"as named, {stored:,} images stored already" if number == 0 else f"with ?pool={choice.pool}"
            name = alias if number == 0 else ""
            lines.append(
                f"  {name:{width}}  {choice.tokens:5} tokens  {choice.bytes_per_image:>10,} B  {size:>12}  {mark}"
            )
    pairs = [pair for alias, views in stores.items() for pair in zip(views, lacking[alias], strict=True)]
    for room in rooms(pairs):
        enough = "" if room.enough else "  NOT ENOUGH: pool the tokens, or name another folder with --cache"
        lines.append(f"  in all {gigabytes(total)}: {room}{enough}")
    return lines
