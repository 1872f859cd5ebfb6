"""What an extraction will take, before it starts: bytes, hours, and the price of each pooling choice.

Handed encoders and image files; hands on lines to print. Sizes are exact but for the parts' tables; the time is
measured on a few of the images.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from encoders.base import Encoder
from encoders.module import tokens_together
from encoders.store import FeatureStore

POOLS = ((14, 14), (7, 7), (4, 4), (2, 2), (1, 1))
SAMPLE = 16
"""Images whose decoding and encoding is timed; few, as one pass of a large encoder takes seconds."""


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

    def planes(path: Path) -> list[torch.Tensor]:
        with Image.open(path) as image:
            return [preprocess(image) for preprocess in preprocesses]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        started = time.perf_counter()
        decoded = list(pool.map(planes, sample))
        decoding = time.perf_counter() - started
    stacks = {p: torch.stack(list(column)) for p, column in zip(preprocesses, zip(*decoded, strict=True), strict=True)}
    encoding = 0.0
    for preprocess, stack in stacks.items():
        members = [encoder for encoder in pixel if encoder.preprocess == preprocess]
        tokens_together(members, stack[:2])  # the first call allocates, and compiles where that is asked for
        started = time.perf_counter()
        for tokens in tokens_together(members, stack):
            tokens.cpu()
        encoding += time.perf_counter() - started
    return Pace(decoding / len(sample), encoding / len(sample))


def estimate(encoders: Mapping[str, Encoder], images: Sequence[Path], *, root: Path, processes: int = 1) -> list[str]:
    """Lines that say what storing these images will take.

    Images are counted by file, so that nothing is read: equal files, and what is stored already, make it less.
    """
    stores = {alias: FeatureStore(root, encoder) for alias, encoder in encoders.items()}
    views = {alias: encoder.views for alias, encoder in encoders.items()}
    lines = [*size_lines(stores, views, len(images)), ""]
    measured = pace(list(encoders.values()), images)
    cores = os.cpu_count() or 1
    # On a CPU decoding and encoding share the cores; a GPU encodes while they decode.
    shared = all(encoder.boxes.device.type == "cpu" for encoder in encoders.values()) and not torch.cuda.is_available()
    each = measured.decoding + measured.encoding if shared else max(measured)
    hours = each * len(images) / 3600 / processes
    share = f"{processes} processes like this one" if processes > 1 else "one process"
    lines.append(
        f"time: about {hours:.2g} h for {share} on {cores} cores"
        f" ({1000 * measured.encoding:.1f} ms an image to encode, {1000 * measured.decoding:.1f} to decode;"
        f" measured on {SAMPLE} images)"
    )
    return lines


def size_lines(stores: Mapping[str, FeatureStore], views: Mapping[str, int], num_images: int) -> list[str]:
    """The table of sizes, with the room that is left."""
    lines, total, needed = [f"{num_images:,} image files, {len(stores)} encoders"], 0, 0
    width = max(len(alias) for alias in stores)
    for alias, store in stores.items():
        total += store.bytes_per_image * num_images * views[alias]
        needed += store.bytes_per_image * (num_images * views[alias] - min(len(store), num_images))
        for number, choice in enumerate(choices(store)):
            size = _gigabytes(choice.bytes_per_image * num_images * views[alias])
            mark = f"as named, {len(store):,} images stored already" if number == 0 else f"with ?pool={choice.pool}"
            name = alias if number == 0 else ""
            lines.append(f"  {name:{width}}  {choice.tokens:5} tokens  {choice.bytes_per_image:>10,} B  {size}  {mark}")
    folder = next(iter(stores.values())).folder
    free = shutil.disk_usage(next(place for place in folder.parents if place.exists())).free
    enough = "" if needed <= free else "  NOT ENOUGH: pool the tokens, or name another folder with --cache"
    lines.append(f"  in all {_gigabytes(total)}, free {_gigabytes(free)}{enough}")
    return lines


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:9,.2f} GB"
